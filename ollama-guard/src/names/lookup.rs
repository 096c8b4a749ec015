//! Asking as this host does: its `hosts` file, and the name servers of its `resolv.conf`.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read as _},
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hickory_resolver::{
    Hosts, TokioResolver,
    config::ResolveHosts,
    net::{DnsError, NetError, NoRecords, runtime::TokioRuntimeProvider},
    proto::{
        op::{Query, ResponseCode},
        rr::{Name, RData, RecordType},
    },
    system_conf::parse_resolv_conf,
};
use tokio::task::spawn_blocking;

use super::{Answer, Resolver};
use crate::policy::HostName;

const SERVERS: &str = "/etc/resolv.conf";
const HOSTS: &str = "/etc/hosts";
/// Bytes of either that are read.
const MOST_BYTES: u64 = 1 << 20;
/// How long "there is none" holds at the most, whatever the zone says.
const NONE_LASTS: Duration = Duration::from_secs(60);
/// How long what the `hosts` file says holds. That it changes is noticed in any case.
const HOSTS_LASTS: Duration = Duration::from_secs(3600);

/// This host's way of looking up names.
#[derive(Clone, Default)]
pub struct SystemResolver {
    way: Arc<Mutex<Option<Arc<Way>>>>,
}

/// The files as they were read.
struct Way {
    stamps: [Stamp; 2],
    hosts: Hosts,
    /// Or why there is none.
    servers: Result<TokioResolver, String>,
}

/// What tells one state of a file from another.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

impl Resolver for SystemResolver {
    async fn ask(&self, name: HostName) -> Result<Answer, String> {
        let way = self.way().await?;
        // Absolute, so that no search domain comes in.
        let name = Name::from_ascii(format!("{}.", name.as_str()))
            .map_err(|error| format!("it is no name: {error}"))?;
        if let Some(answer) = way.in_hosts(&name) {
            return Ok(answer);
        }
        let servers = way.servers.as_ref().map_err(Clone::clone)?;
        // Both or nothing: half an answer would shut the other half out.
        let (v4, v6) = tokio::join!(
            one_family(servers, &name, RecordType::A),
            one_family(servers, &name, RecordType::AAAA),
        );
        let (v4, v6) = (v4?, v6?);
        let lasts = match (v4.addresses.is_empty(), v6.addresses.is_empty()) {
            (false, true) => v4.lasts,
            (true, false) => v6.lasts,
            _ => v4.lasts.min(v6.lasts),
        };
        Ok(Answer { addresses: v4.addresses.union(&v6.addresses).copied().collect(), lasts })
    }

    async fn has_changed(&self) -> bool {
        let Ok(stamps) = spawn_blocking(stamps).await else { return false };
        let mut way = self.way.lock().unwrap_or_else(PoisonError::into_inner);
        let has_changed = way.as_ref().is_some_and(|way| way.stamps != stamps);
        if has_changed {
            *way = None;
        }
        has_changed
    }
}

impl SystemResolver {
    /// The files as they are, or as they were last read.
    async fn way(&self) -> Result<Arc<Way>, String> {
        let known = self.way.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(way) = known {
            return Ok(way);
        }
        let way = spawn_blocking(Way::read).await.map_err(|error| error.to_string())?;
        let way = Arc::new(way);
        *self.way.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&way));
        Ok(way)
    }
}

impl Way {
    fn read() -> Self {
        // Before they are read, so that a change is seen that comes later.
        let stamps = stamps();
        let mut hosts = Hosts::default();
        // No file is none; and what is no line of one is passed over.
        if let Ok(bytes) = contents(HOSTS) {
            let _ = hosts.read_hosts_conf(&bytes[..]);
        }
        Self { stamps, hosts, servers: servers() }
    }

    fn in_hosts(&self, name: &Name) -> Option<Answer> {
        let mut addresses = BTreeSet::new();
        for family in [RecordType::A, RecordType::AAAA] {
            let found = self.hosts.lookup_static_host(&Query::query(name.clone(), family));
            let records = found.as_ref().map_or(&[][..], |found| found.answers());
            addresses.extend(records.iter().filter_map(|record| address(&record.data)));
        }
        (!addresses.is_empty()).then_some(Answer { addresses, lasts: HOSTS_LASTS })
    }
}

fn servers() -> Result<TokioResolver, String> {
    let bytes = contents(SERVERS).map_err(|error| format!("{SERVERS} can't be read: {error}"))?;
    let unusable = |error: NetError| format!("{SERVERS} can't be used: {error}");
    let (config, options) = parse_resolv_conf(bytes).map_err(unusable)?;
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let settings = builder.options_mut();
    *settings = options;
    // When to ask is decided by the schedule, and the hosts file is read here.
    settings.cache_size = 0;
    settings.use_hosts_file = ResolveHosts::Never;
    builder.build().map_err(unusable)
}

async fn one_family(
    servers: &TokioResolver,
    name: &Name,
    family: RecordType,
) -> Result<Answer, String> {
    match servers.lookup(name.clone(), family).await {
        Ok(found) => {
            let code = found.message().response_code;
            if !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
                return Err(format!("{family}: the server answers {code}"));
            }
            // Other records are the names that lead there.
            let records = found.answers();
            let addresses = records.iter().filter_map(|record| address(&record.data)).collect();
            let ttl = records.iter().map(|record| record.ttl).min().unwrap_or(0);
            Ok(Answer { addresses, lasts: Duration::from_secs(ttl.into()) })
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(NoRecords { negative_ttl, .. }))) => {
            let lasts = Duration::from_secs(negative_ttl.unwrap_or(0).into()).min(NONE_LASTS);
            Ok(Answer { addresses: BTreeSet::new(), lasts })
        }
        Err(error) => Err(format!("{family}: {error}")),
    }
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(address) => Some(address.0.into()),
        RData::AAAA(address) => Some(address.0.into()),
        _ => None,
    }
}

fn contents(path: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Through links, as they are read.
fn stamps() -> [Stamp; 2] {
    [SERVERS, HOSTS].map(|path| {
        let found = fs::metadata(Path::new(path)).ok()?;
        Some((found.dev(), found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
    })
}
