//! The report for a person.

use std::fmt::{self, Write as _};

use super::{Facts, InterfaceFacts, Report};
use crate::events::text::Printable;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bad = self.findings.iter().filter(|finding| finding.severity.is_bad()).count();
        match bad {
            0 => writeln!(f, "NOTHING TO DO")?,
            1 => writeln!(f, "1 FINDING TO ACT ON")?,
            count => writeln!(f, "{count} FINDINGS TO ACT ON")?,
        }
        for finding in &self.findings {
            let severity = finding.severity.name();
            writeln!(f, "  {severity:<8} {}", Printable(&finding.what))?;
            writeln!(f, "{:<10} -> {}", "", Printable(&finding.advice))?;
            if !finding.hides_clients.is_empty() {
                let list: Vec<_> = finding.hides_clients.iter().map(ToString::to_string).collect();
                writeln!(f, "{:<10} hides clients behind {}", "", list.join(", "))?;
            }
        }
        write_host(f, &self.facts)?;
        writeln!(f, "interfaces")?;
        for interface in &self.facts.interfaces {
            write_interface(f, interface)?;
        }
        if !self.facts.listeners.is_empty() {
            writeln!(f, "listeners")?;
        }
        for listener in &self.facts.listeners {
            let address = std::net::SocketAddr::from((listener.address, listener.port));
            let process = listener.process.as_deref().unwrap_or("?");
            let place = if listener.is_here { "" } else { ", in another network namespace" };
            let pid = listener.pid.map_or_else(|| "?".into(), |pid| pid.to_string());
            writeln!(f, "  {address:<24} {} (process {pid}){place}", Printable(process))?;
        }
        if self.facts.not_seen.is_empty() {
            return Ok(());
        }
        writeln!(f, "not seen")?;
        for one in &self.facts.not_seen {
            writeln!(f, "  {}: {}", Printable(&one.what), Printable(&one.why))?;
        }
        Ok(())
    }
}

fn write_host(f: &mut fmt::Formatter<'_>, facts: &Facts) -> fmt::Result {
    let kernel = &facts.kernel;
    let known = |value: Option<bool>| match value {
        Some(true) => "yes",
        Some(false) => "no",
        None => "not seen",
    };
    let capabilities = match &kernel.missing_capabilities[..] {
        [] => "enough".to_owned(),
        missing => format!("{} missing", missing.join(", ")),
    };
    writeln!(f, "host")?;
    writeln!(f, "  kernel         {}", Printable(&kernel.release))?;
    writeln!(f, "  BTF            {}", if kernel.btf { "yes" } else { "no (not needed)" })?;
    writeln!(f, "  bpffs          {}", known(kernel.bpffs))?;
    writeln!(f, "  capabilities   {capabilities}")?;
    writeln!(f, "  lockdown       {}", kernel.lockdown.as_deref().unwrap_or("not seen"))?;
    writeln!(f, "  JIT            {}", known(kernel.jit))?;
    let ports = super::facts::written(&facts.guard.ports);
    let guard = match (facts.guard.loaded, facts.guard.unknown) {
        (true, _) => "loaded",
        (false, true) => "not seen",
        (false, false) => "not loaded",
    };
    writeln!(f, "  guard          {guard}, for {ports}")
}

fn write_interface(f: &mut fmt::Formatter<'_>, interface: &InterfaceFacts) -> fmt::Result {
    let mut line = String::new();
    match &interface.kind {
        Some(kind) => write!(line, "{kind}")?,
        None => write!(line, "driver {}", interface.driver.as_deref().unwrap_or("not told"))?,
    }
    if !interface.up {
        line.push_str(", down");
    }
    if let Some(mode) = interface.best_mode {
        write!(line, ", best mode {mode}")?;
    }
    let slots = [
        (interface.xdp.native, "native"),
        (interface.xdp.generic, "generic"),
        (interface.xdp.offload, "offload"),
    ];
    for (id, mode) in slots {
        if let Some(id) = id {
            write!(line, ", XDP {mode}: program {id}")?;
        }
    }
    if interface.covered {
        line.push_str(", covered");
    } else if let Some(reason) = &interface.reason {
        write!(line, "; {reason}")?;
    }
    writeln!(f, "  {:<15} {}", Printable(&interface.name).to_string(), Printable(&line))
}
