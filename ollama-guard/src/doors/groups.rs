//! Prefixes that are computed from this host's interfaces and addresses, by the names under which rules may
//! take them. None of them is in any rule by itself.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::{DoorsError, HostAddress, Interface, kind::Role, list, list_addresses};
use crate::config::HostMember;

/// The names of the groups, and what each is.
pub const HOST_GROUPS: [(&str, &str); 5] = [
    ("this-host", "the addresses of this host, one by one"),
    ("local-networks", "the networks of its own interfaces"),
    ("container-networks", "the networks of its bridges for containers"),
    ("tailscale", "the addresses of a tailnet, for what comes in through its interface only"),
    ("node", "the addresses that this Kubernetes node speaks from, as its kubelet does"),
];

/// The networks that Tailscale takes every address from. Providers use the first for their own customers, too
/// (RFC 6598), and so it says nothing elsewhere than on the tunnel, which lets nobody choose a source.
const TAILNET: [&str; 2] = ["100.64.0.0/10", "fd7a:115c:a1e0::/48"];

/// Where kube-proxy keeps the addresses of services, and the DNS cache of a node its own. Nobody speaks from
/// them, and there may be thousands.
const OF_SERVICES: [&str; 2] = ["kube-ipvs0", "nodelocaldns"];

/// The members of each group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostGroups(BTreeMap<&'static str, Vec<HostMember>>);

impl HostGroups {
    /// Computes them from the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// If interfaces or addresses can't be listed.
    pub async fn read() -> Result<Self, DoorsError> {
        Ok(Self::of(&list().await?, &list_addresses().await?))
    }

    /// Computes them from what there is.
    #[must_use]
    pub fn of(interfaces: &[Interface], addresses: &[HostAddress]) -> Self {
        let [(this_host, _), (local, _), (containers, _), (tailscale, _), (node, _)] = HOST_GROUPS;
        let mut groups = BTreeMap::from(HOST_GROUPS.map(|(name, _)| (name, Vec::new())));
        let mut put = |name, net: IpNet, interface: &Interface| {
            let members: &mut Vec<HostMember> = groups.entry(name).or_default();
            let only_there = name == tailscale;
            let is_there = |one: &HostMember| {
                one.net == net && (!only_there || one.interface == interface.name)
            };
            if !members.iter().any(is_there) {
                members.push(HostMember { net, interface: interface.name.clone(), only_there });
            }
        };
        for address in addresses {
            let of_it = |one: &&Interface| one.ifindex == address.ifindex && !one.is_loopback();
            // What is gone in the meantime, and what comes over loopback, needs no rule.
            let Some(interface) = interfaces.iter().find(of_it) else { continue };
            put(this_host, address.address.into(), interface);
            if !OF_SERVICES.contains(&&*interface.name) {
                put(node, address.address.into(), interface);
            }
            if let Some(tailnet) = tailnet(interface, address) {
                put(tailscale, tailnet, interface);
                continue;
            }
            let Ok(net) = IpNet::new(address.address, address.length) else { continue };
            if net.prefix_len() < net.max_prefix_len() && !is_too_wide(&net) {
                let is_for_containers = interface.kind.as_deref() == Some("bridge")
                    && !leads_out(interface, interfaces);
                put(if is_for_containers { containers } else { local }, net.trunc(), interface);
            }
        }
        Self(groups)
    }

    /// The members of one; `None` if there is no such group.
    #[must_use]
    pub fn members(&self, name: &str) -> Option<&[HostMember]> {
        self.0.get(name).map(Vec::as_slice)
    }
}

/// The tailnet that an address of this host is in.
fn tailnet(interface: &Interface, address: &HostAddress) -> Option<IpNet> {
    // The name that tailscaled gives it; whoever gives it another one writes the networks by hand.
    let is_tailscale =
        interface.kind.as_deref() == Some("tun") && interface.name.starts_with("tailscale");
    let mut tailnets = TAILNET.iter().filter_map(|text| text.parse::<IpNet>().ok());
    tailnets.find(|net| is_tailscale && net.contains(&address.address))
}

/// Whether a network is wider than any that an interface is in: whoever answers DHCP says how wide it is, and
/// is not to let half of the internet in.
const fn is_too_wide(net: &IpNet) -> bool {
    match net {
        IpNet::V4(net) => net.prefix_len() < 8,
        IpNet::V6(net) => net.prefix_len() < 32,
    }
}

/// Whether a bridge has something else than wires to containers and virtual machines in it: then it is this
/// host's way to its network.
fn leads_out(bridge: &Interface, interfaces: &[Interface]) -> bool {
    interfaces.iter().filter(|one| one.master == Some(bridge.ifindex)).any(|one| {
        let role = Role::of(one.kind.as_deref());
        matches!(role, Role::Card | Role::Aggregate | Role::Stacked)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(ifindex: u32, name: &str, kind: Option<&str>, master: Option<u32>) -> Interface {
        Interface {
            name: name.into(),
            ifindex,
            arphrd: if name == "lo" { 772 } else { 1 },
            kind: kind.map(Into::into),
            master,
            parent: None,
            parent_is_here: false,
            up: true,
            mtu: 1500,
            frames: None,
            xdp: Default::default(),
        }
    }

    fn shown(groups: &HostGroups, name: &str) -> Vec<String> {
        let members = groups.members(name).unwrap();
        members.iter().map(|one| format!("{} {}", one.net, one.interface)).collect()
    }

    #[test]
    fn a_bridge_with_a_card_in_it_is_the_hosts_network_and_any_other_is_for_containers() {
        let interfaces = [
            interface(1, "lo", None, None),
            interface(2, "eth0", None, Some(3)),
            interface(3, "br0", Some("bridge"), None),
            interface(4, "docker0", Some("bridge"), None),
            interface(5, "veth1", Some("veth"), Some(4)),
            interface(6, "wg0", Some("wireguard"), None),
        ];
        let address = |ifindex, net: &str| {
            let net: IpNet = net.parse().unwrap();
            HostAddress { address: net.addr(), length: net.prefix_len(), broadcast: None, ifindex }
        };
        let groups = HostGroups::of(
            &interfaces,
            &[
                address(1, "127.0.0.1/8"),
                address(3, "192.0.2.7/24"),
                address(3, "192.0.2.8/24"),
                address(3, "2001:db8::7/64"),
                address(4, "172.17.0.1/16"),
                address(6, "10.9.0.2/32"),
                address(6, "10.9.0.2/1"),
                address(9, "10.0.0.1/8"),
            ],
        );
        assert_eq!(
            shown(&groups, "this-host"),
            [
                "192.0.2.7/32 br0",
                "192.0.2.8/32 br0",
                "2001:db8::7/128 br0",
                "172.17.0.1/32 docker0",
                "10.9.0.2/32 wg0",
            ]
        );
        assert_eq!(shown(&groups, "local-networks"), ["192.0.2.0/24 br0", "2001:db8::/64 br0"]);
        assert_eq!(shown(&groups, "container-networks"), ["172.17.0.0/16 docker0"]);
        assert!(groups.members("office").is_none());
    }

    #[test]
    fn a_node_speaks_from_every_address_but_those_of_services() {
        let interfaces = [
            interface(1, "lo", None, None),
            interface(2, "eth0", None, None),
            interface(3, "cni0", Some("bridge"), None),
            interface(4, "flannel.1", Some("vxlan"), None),
            interface(5, "kube-ipvs0", Some("dummy"), None),
            interface(6, "node0", Some("dummy"), None),
        ];
        let address = |ifindex, net: &str| {
            let net: IpNet = net.parse().unwrap();
            HostAddress { address: net.addr(), length: net.prefix_len(), broadcast: None, ifindex }
        };
        let addresses = [
            address(1, "127.0.0.1/8"),
            address(2, "192.0.2.7/24"),
            address(2, "2001:db8::7/64"),
            address(3, "10.244.1.1/24"),
            address(4, "10.244.1.0/32"),
            address(5, "10.96.0.1/32"),
            address(6, "198.51.100.1/32"),
        ];
        let groups = HostGroups::of(&interfaces, &addresses);
        assert_eq!(
            shown(&groups, "node"),
            [
                "192.0.2.7/32 eth0",
                "2001:db8::7/128 eth0",
                "10.244.1.1/32 cni0",
                "10.244.1.0/32 flannel.1",
                "198.51.100.1/32 node0",
            ]
        );
        assert_eq!(groups.members("this-host").unwrap().len(), 6);
    }

    #[test]
    fn a_tailnet_is_known_by_its_interface_and_not_by_its_addresses_alone() {
        let interfaces = [
            interface(2, "eth0", None, None),
            interface(3, "tailscale0", Some("tun"), None),
            interface(4, "tailscale1", Some("veth"), None),
        ];
        let address = |ifindex, net: &str| {
            let net: IpNet = net.parse().unwrap();
            HostAddress { address: net.addr(), length: net.prefix_len(), broadcast: None, ifindex }
        };
        let addresses = [
            address(2, "100.70.0.9/24"),
            address(3, "100.101.102.103/32"),
            address(3, "fd7a:115c:a1e0::1/128"),
            address(3, "192.0.2.1/32"),
            address(4, "100.64.0.1/24"),
        ];
        let groups = HostGroups::of(&interfaces, &addresses);
        let tailnet = ["100.64.0.0/10 tailscale0", "fd7a:115c:a1e0::/48 tailscale0"];
        assert_eq!(shown(&groups, "tailscale"), tailnet);
        assert!(groups.members("tailscale").unwrap().iter().all(|one| one.only_there));
        assert_eq!(
            shown(&groups, "local-networks"),
            ["100.70.0.0/24 eth0", "100.64.0.0/24 tailscale1"]
        );
        assert!(groups.members("local-networks").unwrap().iter().all(|one| !one.only_there));
    }

    #[tokio::test]
    async fn those_of_this_machine_can_be_read() {
        let groups = HostGroups::read().await.unwrap();
        assert!(HOST_GROUPS.iter().all(|(name, _)| groups.members(name).is_some()));
    }
}
