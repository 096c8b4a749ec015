//! Link messages of rtnetlink: bytes into an [`Interface`].
//!
//! Only what the choice of doors and `status` need is read. Numbers are in the host's byte order.

use ollama_guard_common::Start;
use rtnetlink::packet_core::{NlasIterator, parse_u16, parse_u32};

use super::{
    interface::{Interface, XdpSlots},
    list::DoorsError,
};

/// The message type of a request for links.
pub(super) const RTM_GETLINK: u16 = 18;

/// `struct ifinfomsg`: family, padding, type (2 bytes), index (4), flags (4), change mask (4).
const HEADER_BYTES: usize = 16;
const IFF_UP: u32 = 1;

const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_XDP: u16 = 43;

const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;

/// Within the data of kind `tun` (include/uapi/linux/if_link.h).
const IFLA_TUN_TYPE: u16 = 3;
/// `IFF_TUN` and `IFF_TAP` (include/uapi/linux/if_tun.h).
const IFF_TUN: u8 = 1;
const IFF_TAP: u8 = 2;

const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
const IFLA_XDP_HW_PROG_ID: u16 = 7;

const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;

/// The payload that asks for all links, without their counters.
pub(super) fn dump_request() -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    bytes.extend(8_u16.to_ne_bytes());
    bytes.extend(IFLA_EXT_MASK.to_ne_bytes());
    bytes.extend(RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
    bytes
}

/// Reads the payload of an `RTM_NEWLINK` message.
pub(super) fn read(bytes: &[u8]) -> Result<Interface, DoorsError> {
    let (header, attributes) =
        bytes.split_at_checked(HEADER_BYTES).ok_or(DoorsError::Malformed { ifindex: 0 })?;
    let mut interface = Interface {
        name: String::new(),
        ifindex: number(&header[4..8]).ok_or(DoorsError::Malformed { ifindex: 0 })?,
        arphrd: parse_u16(&header[2..4]).map_err(|_| DoorsError::Malformed { ifindex: 0 })?,
        kind: None,
        master: None,
        parent: None,
        parent_is_here: true,
        up: number(&header[8..12]).is_some_and(|flags| flags & IFF_UP != 0),
        mtu: 0,
        frames: None,
        xdp: XdpSlots::default(),
    };
    match read_attributes(attributes, &mut interface) {
        // No interface is without a name.
        Some(()) if !interface.name.is_empty() => Ok(interface),
        _ => Err(DoorsError::Malformed { ifindex: interface.ifindex }),
    }
}

/// `None` if an attribute is cut, or a number has not four bytes.
fn read_attributes(bytes: &[u8], interface: &mut Interface) -> Option<()> {
    for attribute in NlasIterator::new(bytes) {
        let attribute = attribute.ok()?;
        let value = attribute.value();
        match attribute.kind() {
            IFLA_IFNAME => interface.name = text(value),
            IFLA_MTU => interface.mtu = number(value)?,
            // A tunnel that is bound to no interface has the parent 0.
            IFLA_LINK => interface.parent = nonzero(number(value)?),
            IFLA_MASTER => interface.master = nonzero(number(value)?),
            IFLA_LINK_NETNSID => interface.parent_is_here = false,
            IFLA_LINKINFO => (interface.kind, interface.frames) = read_info(value)?,
            IFLA_XDP => interface.xdp = read_slots(value)?,
            _ => {}
        }
    }
    Some(())
}

/// The kind, and where frames start if the kind tells. `None` if the attributes are cut. A card
/// that belongs to a bridge has attributes here, of the bridge's kind, and no kind itself.
fn read_info(bytes: &[u8]) -> Option<(Option<String>, Option<Start>)> {
    let (mut kind, mut data) = (None, None);
    for attribute in NlasIterator::new(bytes) {
        let attribute = attribute.ok()?;
        match attribute.kind() {
            IFLA_INFO_KIND => kind = Some(text(attribute.value())),
            IFLA_INFO_DATA => data = Some(attribute.value().to_vec()),
            _ => {}
        }
    }
    let frames = match (kind.as_deref(), &data) {
        (Some("tun"), Some(data)) => read_tun(data)?,
        _ => None,
    };
    Some((kind, frames))
}

/// The outer `Option` is `None` if the attributes are cut.
fn read_tun(bytes: &[u8]) -> Option<Option<Start>> {
    let mut frames = None;
    for attribute in NlasIterator::new(bytes) {
        let attribute = attribute.ok()?;
        if attribute.kind() == IFLA_TUN_TYPE {
            frames = match attribute.value() {
                [IFF_TUN] => Some(Start::Network),
                [IFF_TAP] => Some(Start::Link),
                _ => None,
            };
        }
    }
    Some(frames)
}

/// The kernel tells the program of each slot by itself, besides a summary (`IFLA_XDP_ATTACHED`,
/// `IFLA_XDP_PROG_ID`) that names no program if there are several (`rtnl_xdp_fill`).
fn read_slots(bytes: &[u8]) -> Option<XdpSlots> {
    let mut slots = XdpSlots::default();
    for attribute in NlasIterator::new(bytes) {
        let attribute = attribute.ok()?;
        let value = attribute.value();
        match attribute.kind() {
            IFLA_XDP_DRV_PROG_ID => slots.native = nonzero(number(value)?),
            IFLA_XDP_SKB_PROG_ID => slots.generic = nonzero(number(value)?),
            IFLA_XDP_HW_PROG_ID => slots.offload = nonzero(number(value)?),
            _ => {}
        }
    }
    Some(slots)
}

fn number(bytes: &[u8]) -> Option<u32> {
    parse_u32(bytes).ok()
}

fn nonzero(number: u32) -> Option<u32> {
    (number != 0).then_some(number)
}

/// A text up to its closing zero. Names are bytes to the kernel: what is no UTF-8 is replaced,
/// because an interface with a strange name is a door all the same.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IFLA_INFO_SLAVE_KIND: u16 = 4;
    const IFLA_XDP_ATTACHED: u16 = 2;
    const IFLA_XDP_PROG_ID: u16 = 4;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).expect("short values only");
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn u32_attribute(kind: u16, value: u32) -> Vec<u8> {
        attribute(kind, &value.to_ne_bytes())
    }

    fn attached(mode: u8) -> Vec<u8> {
        attribute(IFLA_XDP_ATTACHED, &[mode])
    }

    fn message(arphrd: u16, ifindex: u32, flags: u32, attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = vec![0, 0];
        bytes.extend(arphrd.to_ne_bytes());
        bytes.extend(ifindex.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(attributes.concat());
        bytes
    }

    fn named(name: &[u8], attributes: &[Vec<u8>]) -> Interface {
        let attributes = [&[attribute(IFLA_IFNAME, name)], attributes].concat();
        read(&message(1, 2, 0, &attributes)).expect("a link message")
    }

    fn slots(attributes: &[Vec<u8>]) -> XdpSlots {
        named(b"eth0\0", &[attribute(IFLA_XDP, &attributes.concat())]).xdp
    }

    #[test]
    fn a_veth_on_a_bridge_with_its_peer_elsewhere_is_read() {
        let info =
            [attribute(IFLA_INFO_KIND, b"veth\0"), attribute(IFLA_INFO_SLAVE_KIND, b"bridge\0")];
        let attributes = [
            attribute(IFLA_IFNAME, b"veth1\0"),
            u32_attribute(IFLA_MTU, 1450),
            u32_attribute(IFLA_LINK, 2),
            u32_attribute(IFLA_MASTER, 4),
            attribute(IFLA_LINKINFO, &info.concat()),
            u32_attribute(IFLA_LINK_NETNSID, 0),
        ];
        let expected = Interface {
            name: "veth1".to_owned(),
            ifindex: 3,
            arphrd: 1,
            kind: Some("veth".to_owned()),
            master: Some(4),
            parent: Some(2),
            parent_is_here: false,
            up: true,
            mtu: 1450,
            frames: None,
            xdp: XdpSlots::default(),
        };
        assert_eq!(read(&message(1, 3, 0x1003, &attributes)).expect("a link message"), expected);
    }

    #[test]
    fn a_card_in_a_bridge_has_no_kind_of_its_own() {
        let info = attribute(IFLA_INFO_SLAVE_KIND, b"bridge\0");
        let interface = named(b"eth0\0", &[attribute(IFLA_LINKINFO, &info)]);
        assert_eq!((interface.kind, interface.up), (None, false));
    }

    #[test]
    fn a_tun_device_says_itself_where_its_frames_start() {
        let starts = [(IFF_TUN, Start::Network), (IFF_TAP, Start::Link)];
        for (mode, expected) in starts {
            let data = attribute(IFLA_INFO_DATA, &attribute(IFLA_TUN_TYPE, &[mode]));
            let info = [attribute(IFLA_INFO_KIND, b"tun\0"), data];
            let interface = named(b"x0\0", &[attribute(IFLA_LINKINFO, &info.concat())]);
            assert_eq!(interface.start(), Some(expected), "whatever its ARPHRD type says");
        }
    }

    #[test]
    fn a_nested_flag_and_an_unknown_attribute_do_no_harm() {
        let info = attribute(IFLA_INFO_KIND, b"brandnew\0");
        let interface =
            named(b"x0\0", &[attribute(IFLA_LINKINFO | 0x8000, &info), attribute(999, &[1, 2, 3])]);
        assert_eq!(interface.kind.as_deref(), Some("brandnew"));
    }

    #[test]
    fn every_arphrd_number_is_kept_as_the_kernel_says_it() {
        let name = attribute(IFLA_IFNAME, b"x0\0");
        for arphrd in 0..=u16::MAX {
            let bytes = message(arphrd, 7, 1, std::slice::from_ref(&name));
            assert_eq!(read(&bytes).expect("a link message").arphrd, arphrd);
        }
    }

    #[test]
    fn a_tunnel_bound_to_no_interface_has_no_parent() {
        assert_eq!(named(b"tunl0\0", &[u32_attribute(IFLA_LINK, 0)]).parent, None);
    }

    #[test]
    fn a_name_that_is_no_utf8_does_not_hide_the_interface() {
        assert_eq!(named(b"eth\xff\0", &[]).name, "eth\u{fffd}");
    }

    #[test]
    fn xdp_slots_are_read_as_the_kernel_fills_them() {
        let none = XdpSlots::default();
        assert_eq!(slots(&[attached(0)]), none);
        let one = |slot, mode| {
            slots(&[u32_attribute(slot, 132), attached(mode), u32_attribute(IFLA_XDP_PROG_ID, 132)])
        };
        assert_eq!(one(IFLA_XDP_DRV_PROG_ID, 1), XdpSlots { native: Some(132), ..none });
        assert_eq!(one(IFLA_XDP_SKB_PROG_ID, 2), XdpSlots { generic: Some(132), ..none });
        assert_eq!(one(IFLA_XDP_HW_PROG_ID, 3), XdpSlots { offload: Some(132), ..none });
        let several = [
            u32_attribute(IFLA_XDP_DRV_PROG_ID, 5),
            u32_attribute(IFLA_XDP_HW_PROG_ID, 9),
            attached(4),
        ];
        assert_eq!(slots(&several), XdpSlots { native: Some(5), generic: None, offload: Some(9) });
    }

    /// What a 6.18 kernel sent for a veth with a generic program.
    #[test]
    #[cfg(target_endian = "little")]
    fn recorded_bytes_of_a_generic_program_are_read() {
        let recorded = [
            0x1c, 0, 0x2b, 0, 8, 0, 6, 0, 0x7f, 0, 0, 0, 5, 0, 2, 0, 2, 0, 0, 0, 8, 0, 4, 0, 0x7f,
            0, 0, 0,
        ];
        let expected = XdpSlots { generic: Some(127), ..XdpSlots::default() };
        assert_eq!(named(b"a0\0", &[recorded.to_vec()]).xdp, expected);
    }

    #[test]
    fn what_cannot_be_read_is_an_error_with_the_number() {
        let name = attribute(IFLA_IFNAME, b"eth0\0");
        let cases = [
            (vec![0; 15], 0),
            (message(1, 7, 1, &[]), 7),
            (message(1, 7, 1, &[name.clone(), vec![1, 2, 3]]), 7),
            (message(1, 7, 1, &[name.clone(), attribute(IFLA_MTU, &[1, 2])]), 7),
            (message(1, 7, 1, &[name, attribute(IFLA_XDP, &[200, 0, 5, 0])]), 7),
        ];
        for (bytes, expected) in cases {
            match read(&bytes) {
                Err(DoorsError::Malformed { ifindex }) => assert_eq!(ifindex, expected),
                other => panic!("{bytes:?} was read as {other:?}"),
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }

        #[test]
        fn any_nested_bytes_are_answered(
            kind in prop_oneof![Just(IFLA_LINKINFO), Just(IFLA_XDP), Just(IFLA_IFNAME)],
            bytes in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let _ = read(&message(1, 2, 1, &[attribute(kind, &bytes)]));
        }
    }
}
