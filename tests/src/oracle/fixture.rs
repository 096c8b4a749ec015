//! Cases that were found to disagree, kept as files and run again by the tests.

use std::{fs, net::IpAddr, path::Path};

use anyhow::{Context as _, Result, ensure};
use ollama_guard_common::Reason;
use serde_json::{Value, json};

use super::{
    case::{Case, Door, Frame},
    cast::POLICIES,
    verdict::Finding,
};

/// Writes a finding's case into a directory, and returns the file's name. A finding without a case
/// is only in the report: its seed brings it back.
///
/// # Errors
///
/// If it can't be written.
pub fn keep(directory: &Path, seed: u64, finding: &Finding) -> Result<Option<String>> {
    let Some(case) = &finding.case else { return Ok(None) };
    let frames: Vec<_> = case.frames.iter().map(written).collect();
    let content = json!({
        "seed": format!("{seed:#018x}"),
        "number": case.number,
        "notes": case.notes,
        "found": format!("{}: {}", finding.server, finding.what),
        "sources": case.sources.iter().map(IpAddr::to_string).collect::<Vec<_>>(),
        "frames": frames,
    });
    fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    let name = format!("{seed:016x}-{}.json", case.number);
    let path = directory.join(&name);
    fs::write(&path, format!("{content:#}\n")).with_context(|| format!("{}", path.display()))?;
    Ok(Some(name))
}

fn written(frame: &Frame) -> Value {
    let (door, ethertype) = match frame.door {
        Door::First => ("first", 0),
        Door::Second => ("second", 0),
        Door::Tun { ethertype } => ("tun", ethertype),
        Door::Vxlan => ("vxlan", 0),
    };
    let bytes: String = frame.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let expect = frame.expect.map(|reasons| reasons.map(Reason::name));
    json!({ "door": door, "ethertype": ethertype, "bytes": bytes, "expect": expect })
}

/// Reads every case of a directory, in the order of the files' names. A directory that does not
/// exist has none.
///
/// # Errors
///
/// If a file is no case.
pub fn read_all(directory: &Path) -> Result<Vec<(String, Case)>> {
    if !directory.exists() {
        return Ok(Vec::new());
    }
    let mut cases = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let text = fs::read_to_string(&path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let case = read(&text).with_context(|| format!("{} is no case", path.display()))?;
        cases.push((name, case));
    }
    cases.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(cases)
}

fn read(text: &str) -> Result<Case> {
    let json: Value = serde_json::from_str(text)?;
    let list = |name: &str| json[name].as_array().with_context(|| format!("no list {name}"));
    let sources = list("sources")?
        .iter()
        .map(|source| Ok(source.as_str().context("no address")?.parse()?))
        .collect::<Result<_>>()?;
    let frames = list("frames")?.iter().map(frame).collect::<Result<_>>()?;
    let number = u32::try_from(json["number"].as_u64().context("no number")?)?;
    Ok(Case { number, notes: vec!["a fixture"], sources, frames })
}

fn frame(json: &Value) -> Result<Frame> {
    let ethertype = u16::try_from(json["ethertype"].as_u64().unwrap_or(0))?;
    let door = match json["door"].as_str() {
        Some("first") => Door::First,
        Some("second") => Door::Second,
        Some("tun") => Door::Tun { ethertype },
        Some("vxlan") => Door::Vxlan,
        other => anyhow::bail!("{other:?} is no door"),
    };
    let text = json["bytes"].as_str().context("no bytes")?;
    ensure!(text.is_ascii() && text.len().is_multiple_of(2), "half a byte");
    let bytes = (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16))
        .collect::<Result<_, _>>()?;
    let reason = |name: &Value| {
        let known = Reason::ALL.iter().find(|reason| name == reason.name());
        known.copied().with_context(|| format!("{name} is no reason"))
    };
    let expect = match &json["expect"] {
        Value::Null => None,
        Value::Array(names) => {
            let reasons = names.iter().map(reason).collect::<Result<Vec<_>>>()?;
            let reasons: [Reason; POLICIES] =
                reasons.try_into().map_err(|_| anyhow::anyhow!("not one reason a policy"))?;
            Some(reasons)
        }
        other => anyhow::bail!("{other} are no reasons"),
    };
    Ok(Frame { door, bytes, expect })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::generator::Generator;

    #[test]
    fn what_is_kept_is_read_back() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let mut generator = Generator::new(21);
        let cases: Vec<_> = (0..50).map(|_| generator.next_case()).collect();
        for case in &cases {
            let case = Some(case.clone());
            let finding = Finding { case, server: "native", what: "a test".into(), is_hole: false };
            keep(directory.path(), 21, &finding)?;
        }
        let mut kept: Vec<_> = read_all(directory.path())?.into_iter().map(|kept| kept.1).collect();
        kept.sort_by_key(|case| case.number);
        for (case, kept) in cases.iter().zip(kept) {
            assert_eq!((&case.frames, &case.sources), (&kept.frames, &kept.sources));
        }
        Ok(())
    }

    #[test]
    fn a_directory_that_does_not_exist_has_no_cases() -> Result<()> {
        assert!(read_all(Path::new("/nowhere/at/all"))?.is_empty());
        Ok(())
    }
}
