//! Sizes, as people write them.

use std::{fmt, str::FromStr};

/// A number of bytes: `512 KiB`, `16 MiB`, `1 GiB`, and `0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// A text that is no size, or has no unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSize;

impl FromStr for Bytes {
    type Err = NoSize;

    fn from_str(text: &str) -> Result<Self, NoSize> {
        let text = text.trim();
        if text == "0" {
            return Ok(Self(0));
        }
        let found = UNITS.iter().find_map(|(unit, size)| Some((text.strip_suffix(unit)?, size)));
        let (number, size) = found.ok_or(NoSize)?;
        let number = number.trim_end();
        if !number.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(NoSize);
        }
        let number: u64 = number.parse().map_err(|_| NoSize)?;
        number.checked_mul(*size).map(Self).ok_or(NoSize)
    }
}

/// In the largest unit that leaves something before the point, with one decimal if it is not whole.
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((unit, size)) = UNITS.iter().find(|(_, size)| self.0 >= *size) else {
            return match self.0 {
                0 => f.write_str("0"),
                bytes => write!(f, "{bytes} bytes"),
            };
        };
        if self.0.is_multiple_of(*size) {
            write!(f, "{} {unit}", self.0 / size)
        } else {
            write!(f, "{:.1} {unit}", self.0 as f64 / *size as f64)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes) in [("16 MiB", 16 << 20), ("512KiB", 512 << 10), ("1 GiB", 1 << 30)] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)));
            assert_eq!(Bytes(bytes).to_string().parse(), Ok(Bytes(bytes)));
        }
        assert_eq!("0".parse(), Ok(Bytes(0)));
        let written = [0, 5, 1536, 1 << 20, 1_300_000].map(|bytes| Bytes(bytes).to_string());
        assert_eq!(written, ["0", "5 bytes", "1.5 KiB", "1 MiB", "1.2 MiB"]);
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "16", "16 MB", "-1 MiB", "+1 MiB", "1.5 MiB", "MiB", "99999999999999 GiB"]
        {
            assert_eq!(text.parse::<Bytes>(), Err(NoSize), "{text}");
        }
    }
}
