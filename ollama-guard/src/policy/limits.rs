//! For which services, and at which doors, a rule holds.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use super::Pattern;

/// What a rule is limited to. A rule that is limited to nothing has none of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// The service; `None`: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Arc<str>>,
    /// The interfaces, by their names; empty: all of them. Sorted, none twice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on: Vec<Pattern>,
}

impl Limits {
    /// Limits to a service and to interfaces; `None` if they are to nothing.
    #[must_use]
    pub fn new(service: Option<Arc<str>>, mut on: Vec<Pattern>) -> Option<Arc<Self>> {
        on.sort();
        on.dedup();
        (service.is_some() || !on.is_empty()).then(|| Arc::new(Self { service, on }))
    }

    /// Whether they are to some interfaces, which then have to be told apart.
    #[must_use]
    pub const fn is_for_some_doors(&self) -> bool {
        !self.on.is_empty()
    }
}

/// `for ollama, on eth1 and wg*`.
impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(service) = &self.service {
            write!(f, "for {service}")?;
        }
        for (position, pattern) in self.on.iter().enumerate() {
            let before = match position {
                0 if self.service.is_some() => ", on ",
                0 => "on ",
                _ if position + 1 == self.on.len() => " and ",
                _ => ", ",
            };
            write!(f, "{before}{pattern}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(service: Option<&str>, on: &[&str]) -> Option<Arc<Limits>> {
        let on = on.iter().map(|text| text.parse().unwrap()).collect();
        Limits::new(service.map(Arc::from), on)
    }

    #[test]
    fn they_are_said_in_words() {
        let said = |service, on: &[&str]| limits(service, on).unwrap().to_string();
        assert_eq!(said(Some("ollama"), &[]), "for ollama");
        assert_eq!(said(None, &["wg*", "eth1", "wg*"]), "on eth1 and wg*");
        assert_eq!(said(Some("ollama"), &["eth1"]), "for ollama, on eth1");
        assert_eq!(limits(None, &[]), None, "limited to nothing is not limited");
    }

    #[test]
    fn json_leads_back_to_them() {
        let one = limits(Some("ollama"), &["eth1"]).unwrap();
        let json = serde_json::to_string(&one).unwrap();
        assert_eq!(json, r#"{"service":"ollama","on":["eth1"]}"#);
        assert_eq!(serde_json::from_str::<Limits>(&json).unwrap(), *one);
        serde_json::from_str::<Limits>(r#"{"on":["a b"]}"#).unwrap_err();
    }
}
