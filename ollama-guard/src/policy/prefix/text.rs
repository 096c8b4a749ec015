//! From text to a network. Strict, because a rule that is read otherwise than it was meant lets a
//! stranger in or locks a friend out.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Family, PrefixError};
use crate::policy::{clipped, quoted};

/// Reads an address or a network.
pub(super) fn parse(text: &str) -> Result<IpNet, PrefixError> {
    if text.is_empty() {
        return Err(PrefixError::Empty);
    }
    if text.contains(char::is_whitespace) {
        return Err(PrefixError::WhiteSpace { text: quoted(text) });
    }
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let Ok(address) = IpAddr::from_str(address) else {
        return Err(explain_address(text, address, length));
    };
    let length = match length {
        Some(length) => parse_length(text, address, length)?,
        None => longest(address),
    };
    // The length has been compared with the family's longest one.
    let net = IpNet::new_assert(address, length);
    check(net, text)
}

/// Refuses host bits and the networks that no rule can be about.
pub(super) fn check(net: IpNet, text: &str) -> Result<IpNet, PrefixError> {
    if let Some(instead) = mapped(net) {
        return Err(PrefixError::Mapped { text: quoted(text), instead: shown(instead) });
    }
    if let Some(error) = forbidden(net.trunc(), text) {
        return Err(error);
    }
    if net != net.trunc() {
        return Err(PrefixError::HostBits { text: quoted(text), instead: without_host_bits(net) });
    }
    Ok(net)
}

/// The IPv4 network that an IPv4-mapped IPv6 network (`::ffff:0:0/96`) stands for.
fn mapped(net: IpNet) -> Option<IpNet> {
    let IpNet::V6(net) = net else { return None };
    let address = net.addr().to_ipv4_mapped()?;
    let length = net.prefix_len().checked_sub(96)?;
    Some(IpNet::V4(Ipv4Net::new_assert(address, length).trunc()))
}

/// The error for a network that lies entirely in a range of sources that are always dropped.
///
/// The ranges are those of [`ollama_guard_common::Source::forbidden`]; a test compares the two.
fn forbidden(net: IpNet, text: &str) -> Option<PrefixError> {
    let text = || quoted(text);
    let within_v4 = |a, b, c, d, length| {
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)).contains(&net)
    };
    let within_v6 = |address: u128, length| {
        IpNet::V6(Ipv6Net::new_assert(address.into(), length)).contains(&net)
    };
    if within_v4(0, 0, 0, 0, 8) {
        return Some(PrefixError::Unspecified { text: text(), everyone: "0.0.0.0/0" });
    }
    // ::/127 is the unspecified address and the loopback address, and nothing else.
    if within_v6(1, 128) || within_v4(127, 0, 0, 0, 8) {
        return Some(PrefixError::Loopback { text: text() });
    }
    if within_v6(0, 127) {
        return Some(PrefixError::Unspecified { text: text(), everyone: "::/0" });
    }
    if within_v4(224, 0, 0, 0, 4) || within_v4(255, 255, 255, 255, 32) || within_v6(0xff << 120, 8)
    {
        return Some(PrefixError::Multicast { text: text() });
    }
    None
}

/// The two things that somebody may have meant who wrote host bits. Neither is everyone: `/0` by
/// mistake must not turn into an open door by following the advice.
fn without_host_bits(net: IpNet) -> String {
    let network = net.trunc();
    let address = IpNet::from(net.addr());
    let usable = forbidden(address, "").is_none() && mapped(address).is_none();
    match (network.prefix_len(), usable) {
        (0, _) => format!("{} for the one address", shown(address)),
        (_, false) => format!("{network} for the network"),
        (_, true) => format!("{network} for the network or {} for the one address", shown(address)),
    }
}

fn parse_length(text: &str, address: IpAddr, length: &str) -> Result<u8, PrefixError> {
    let most = longest(address);
    if !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit()) {
        if length.len() > 1 && length.starts_with('0') {
            let instead = format!("{address}/{}", without_leading_zeros(length));
            return Err(PrefixError::LeadingZero {
                text: quoted(text),
                instead: clipped(&instead),
            });
        }
        return match length.parse::<u8>() {
            Ok(length) if length <= most => Ok(length),
            _ => {
                let family = Family::from(address);
                Err(PrefixError::LengthTooLong { text: quoted(text), most, family })
            }
        };
    }
    if let (IpAddr::V4(address), Ok(mask)) = (address, Ipv4Addr::from_str(length))
        && let Ok(net) = Ipv4Net::with_netmask(address, mask)
    {
        let instead = shown(IpNet::V4(net.trunc()));
        return Err(PrefixError::Netmask { text: quoted(text), instead });
    }
    Err(PrefixError::NoLength { text: quoted(text), most })
}

/// Why `address`, the part of `text` before the slash, is no address.
fn explain_address(text: &str, address: &str, length: Option<&str>) -> PrefixError {
    let with_length = |address: &str| match length {
        Some(length) => clipped(&format!("{address}/{length}")),
        None => address.to_owned(),
    };
    let quoted_text = quoted(text);
    if let Some((before, _)) = address.split_once('%')
        && before.parse::<Ipv6Addr>().is_ok()
    {
        return PrefixError::Zone { text: quoted_text, instead: with_length(before) };
    }
    if let Some(bare) = without_port(address) {
        return PrefixError::PortOrBrackets { text: quoted_text, instead: with_length(bare) };
    }
    if let Some((first, last)) = address.split_once('-')
        && [first, last].iter().all(|end| looks_like_v4(end) || end.contains(':'))
    {
        return PrefixError::Range { text: quoted_text };
    }
    if looks_like_v4(address) {
        return explain_v4(quoted_text, address, &with_length);
    }
    PrefixError::NotAnAddress { text: quoted_text }
}

fn explain_v4(text: String, address: &str, with_length: &dyn Fn(&str) -> String) -> PrefixError {
    let numbers: Vec<&str> = address.split('.').collect();
    if numbers.len() != 4 || numbers.iter().any(|number| number.is_empty()) {
        return PrefixError::NotFourNumbers { text };
    }
    if let Some(number) = numbers.iter().find(|number| number.parse::<u8>().is_err()) {
        return PrefixError::NumberTooLarge { text, number: clipped(number) };
    }
    let plain: Vec<&str> = numbers.iter().map(|number| without_leading_zeros(number)).collect();
    PrefixError::LeadingZero { text, instead: with_length(&plain.join(".")) }
}

/// The address in `[address]`, `[address]:port` or `IPv4:port`.
fn without_port(address: &str) -> Option<&str> {
    let bare = match address.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None => address.split_once(':')?.0,
    };
    bare.parse::<IpAddr>().is_ok().then_some(bare)
}

fn looks_like_v4(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

fn without_leading_zeros(number: &str) -> &str {
    match number.trim_start_matches('0') {
        "" => "0",
        trimmed => trimmed,
    }
}

/// A network as [`super::Prefix`] prints it.
fn shown(net: IpNet) -> String {
    super::Prefix(net).to_string()
}

fn longest(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use ollama_guard_common::Source;
    use proptest::prelude::*;

    use super::*;
    use crate::policy::Prefix;

    /// The message for a text that must be refused.
    fn refusal(text: &str) -> String {
        match text.parse::<Prefix>() {
            Ok(prefix) => panic!("{text:?} was read as {prefix}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn every_refusal_says_what_to_write_instead() {
        let cases = [
            ("10.1.2.3/8", "has host bits: write 10.0.0.0/8 for the network or 10.1.2.3 for the"),
            ("2001:db8::1/32", "write 2001:db8::/32 for the network or 2001:db8::1 for the one"),
            ("192.0.2.1/0", "has host bits: write 192.0.2.1 for the one address"),
            ("126.0.0.1/7", "write 126.0.0.0/7 for the network or 126.0.0.1 for"),
            ("127.0.0.1/7", "write 126.0.0.0/7 for the network"),
            ("010.1.2.3", "leading zero, which some programs read as octal: write 10.1.2.3"),
            ("10.00.2.3/32", "write 10.0.2.3/32"),
            ("10.0.0.0/08", "write 10.0.0.0/8"),
            ("::ffff:192.0.2.1", "IPv4-mapped"),
            ("::ffff:c000:201", "write 192.0.2.1"),
            ("::ffff:192.0.2.0/120", "write 192.0.2.0/24"),
            ("::ffff:192.0.2.7/120", "write 192.0.2.0/24"),
            ("127.0.0.1", "loopback: leave it out"),
            ("127.0.0.1/8", "loopback: leave it out"),
            ("::1", "loopback: leave it out"),
            ("224.0.0.0/4", "multicast or broadcast"),
            ("255.255.255.255", "multicast or broadcast"),
            ("ff02::1", "multicast or broadcast"),
            ("0.0.0.0", "or write 0.0.0.0/0 if you mean everyone"),
            ("0.0.0.0/8", "or write 0.0.0.0/0 if you mean everyone"),
            ("::", "or write ::/0 if you mean everyone"),
            ("::/127", "or write ::/0 if you mean everyone"),
            ("fe80::1%eth0", "so write fe80::1"),
            ("fe80::%eth0/64", "has a zone"),
            ("", "empty: write an address"),
            (" 10.0.0.1", "\" 10.0.0.1\" contains white space"),
            ("10.0.0.1\n", "\"10.0.0.1\\n\" contains white space"),
            ("10.0.0.0 /8", "contains white space"),
            ("10.0.0.0/33", "above 32, the most for IPv4"),
            ("2001:db8::/129", "above 128, the most for IPv6"),
            ("10.0.0.0/99999999999999999999", "above 32"),
            ("10.0.0.0/", "write a number from 0 to 32 there"),
            ("2001:db8::/x", "write a number from 0 to 128 there"),
            ("10.0.0.0/+8", "write a number from 0 to 32 there"),
            ("10.0.0.0/8/9", "write a number from 0 to 32 there"),
            ("10.0.0.0/255.0.0.0", "has a netmask: write 10.0.0.0/8"),
            ("10", "write all four numbers"),
            ("10/8", "write all four numbers"),
            ("10.0.0.", "write all four numbers"),
            ("10.0.0.256", "256 is too large"),
            ("192.0.2.1:11434", "has brackets or a port: write 192.0.2.1;"),
            ("[2001:db8::1]:11434", "write 2001:db8::1;"),
            ("192.0.2.1-192.0.2.9", "is a range"),
            ("example.org", "or a host name with a dot"),
            ("2001:db8:::1", "is no address"),
            ("/8", "is no address"),
            ("1\u{1b}[31m", "\\u{1b}"),
            ("fe80::1%eth0/\u{1b}[31m", "so write fe80::1/\\u{1b}"),
        ];
        for (text, expected) in cases {
            let message = refusal(text);
            assert!(message.contains(expected), "{text:?}: {message}");
        }
    }

    #[test]
    fn a_network_that_merely_contains_forbidden_sources_is_read() {
        for text in
            ["0.0.0.0/0", "::/0", "0.0.0.0/7", "224.0.0.0/3", "::/126", "::/64", "fe80::/10"]
        {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_refusal_never_repeats_a_long_text_whole() {
        let long = "9".repeat(100_000);
        for text in [long.clone(), format!("10.0.0.{long}"), format!("10.0.0.0/0{long}")] {
            assert!(refusal(&text).len() < 300);
        }
    }

    fn agrees_with_the_packet_decision(address: IpAddr, source: Source) {
        let parsed = address.to_string().parse::<Prefix>();
        assert_eq!(parsed.is_err(), source.forbidden().is_some(), "{address}: {parsed:?}");
    }

    proptest! {
        #[test]
        fn single_addresses_are_refused_exactly_if_such_packets_are_always_dropped(
            high in prop_oneof![Just(0_u8), Just(127), Just(224), Just(255), any::<u8>()],
            low in prop_oneof![Just(0_u32), Just(0xff_ffff), any::<u32>()],
            v6 in prop_oneof![
                (0_u128..4).boxed(),
                (0_u128..4).prop_map(|low| 0xffff_0000_0000 | low).boxed(),
                any::<u128>().prop_map(|low| low | 0xff << 120).boxed(),
                any::<u128>().boxed(),
            ],
        ) {
            let v4 = u32::from(high) << 24 | low & 0xff_ffff;
            agrees_with_the_packet_decision(Ipv4Addr::from(v4).into(), Source::V4(v4.to_be_bytes()));
            agrees_with_the_packet_decision(Ipv6Addr::from(v6).into(), Source::V6(v6.to_be_bytes()));
        }

        #[test]
        fn any_text_is_read_or_refused_and_what_is_read_prints_as_itself(text in ".{0,40}|[0-9a-f:./%\\[\\]-]{0,24}") {
            if let Ok(prefix) = text.parse::<Prefix>() {
                prop_assert_eq!(prefix.to_string().parse::<Prefix>(), Ok(prefix));
            }
        }
    }
}
