//! The Internet checksum (RFC 1071) and CRC-32C (RFC 9260, appendix A).

use std::net::IpAddr;

/// The Internet checksum of the concatenation of `parts`. Only the last may have an odd length.
pub(super) fn internet(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The pseudo header that TCP, UDP, DCCP and ICMPv6 add to what they sum up (RFC 9293 section
/// 3.1, RFC 8200 section 8.1).
pub(super) fn pseudo_header(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    length: usize,
) -> Vec<u8> {
    let mut header = Vec::new();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            header.extend(source.octets());
            header.extend(destination.octets());
            header.extend([0, protocol]);
            header.extend((length as u16).to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            header.extend(source.octets());
            header.extend(destination.octets());
            header.extend((length as u32).to_be_bytes());
            header.extend([0, 0, 0, protocol]);
        }
        mixed => panic!("no packet has addresses of both families: {mixed:?}"),
    }
    header
}

/// CRC-32C, as SCTP uses it. The result is written in little-endian order.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 * (crc & 1));
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_with_its_own_checksum_sums_up_to_nothing() {
        let mut header = [0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 10, 192, 0, 2, 1];
        let sum = internet(&[&header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(internet(&[&header]), 0);
    }

    #[test]
    fn crc32c_gives_the_published_check_value() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
