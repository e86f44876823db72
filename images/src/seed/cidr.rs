//! A block of IP addresses: network address and prefix length (RFC 4632).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A network: address with all host bits zero, and the prefix's length in bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// Not `ADDRESS/BITS`.
    #[error("is not of the form ADDRESS/BITS, such as 10.42.0.0/16")]
    Form,
    /// Bits below the prefix are set; the network meant is told.
    #[error("has bits set beyond its prefix; the network is {0}")]
    HostBits(Cidr),
}

impl Cidr {
    /// All of IPv6.
    pub const V6_ALL: Self = Self {
        address: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        prefix: 0,
    };

    /// The IPv4 network that `address` lies in.
    #[must_use]
    pub const fn v4(address: [u8; 4], prefix: u8) -> Self {
        let [a, b, c, d] = address;
        let prefix = if prefix > 32 { 32 } else { prefix };
        let bits = u32::from_be_bytes([a, b, c, d]) & mask(prefix as u32 + 96) as u32;
        Self {
            address: IpAddr::V4(Ipv4Addr::from_bits(bits)),
            prefix,
        }
    }

    /// Network address.
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// Length of the prefix in bits.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Bits of an address of this family.
    #[must_use]
    pub fn width(self) -> u8 {
        if self.address.is_ipv4() { 32 } else { 128 }
    }

    /// The `index`-th address, counted from the network address (0); `None` beyond the end.
    #[must_use]
    pub fn nth(self, index: u64) -> Option<IpAddr> {
        let host_bits = u32::from(self.width() - self.prefix);
        if host_bits < 64 && index >> host_bits != 0 {
            return None;
        }
        Some(match self.address {
            IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from_bits(
                address.to_bits() | u32::try_from(index).ok()?,
            )),
            IpAddr::V6(address) => {
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() | u128::from(index)))
            }
        })
    }

    /// The first subnet with this prefix; `None` when that is shorter than the network's own or too long.
    #[must_use]
    pub fn first_subnet(self, prefix: u8) -> Option<Self> {
        (prefix >= self.prefix && prefix <= self.width()).then_some(Self {
            address: self.address,
            prefix,
        })
    }

    /// Whether the address lies in the network.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        Self::network(address, self.prefix) == Some(self)
    }

    /// Whether two networks share addresses.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// The network of `address`; `None` when the prefix is too long for the family.
    fn network(address: IpAddr, prefix: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(address) if prefix <= 32 => {
                return Some(Self::v4(address.octets(), prefix));
            }
            IpAddr::V6(address) if prefix <= 128 => IpAddr::V6(Ipv6Addr::from_bits(
                address.to_bits() & mask(u32::from(prefix)),
            )),
            _ => return None,
        };
        Some(Self { address, prefix })
    }
}

/// The upper `bits` of 128 set.
const fn mask(bits: u32) -> u128 {
    match u128::MAX.checked_shl(128 - bits) {
        Some(mask) => mask,
        None => 0,
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, prefix) = text.split_once('/').ok_or(CidrError::Form)?;
        let address: IpAddr = address.parse().map_err(|_| CidrError::Form)?;
        if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(CidrError::Form);
        }
        let prefix: u8 = prefix.parse().map_err(|_| CidrError::Form)?;
        let network = Self::network(address, prefix).ok_or(CidrError::Form)?;
        if network.address == address {
            Ok(network)
        } else {
            Err(CidrError::HostBits(network))
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .map_err(|error| serde::de::Error::custom(format!("{text:?} {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn forms() {
        assert_eq!(cidr("10.42.0.0/16"), Cidr::v4([10, 42, 0, 0], 16));
        assert_eq!(cidr("0.0.0.0/0").to_string(), "0.0.0.0/0");
        assert_eq!(cidr("fd00:42::/56").to_string(), "fd00:42::/56");
        for bad in [
            "",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "fd00::/129",
            "a/8",
            "10.0.0.0/+8",
        ] {
            assert_eq!(bad.parse::<Cidr>(), Err(CidrError::Form), "{bad}");
        }
        assert_eq!(
            "10.42.1.0/16".parse::<Cidr>(),
            Err(CidrError::HostBits(cidr("10.42.0.0/16")))
        );
    }

    #[test]
    fn addresses_and_subnets() {
        assert_eq!(
            cidr("10.43.0.0/16").nth(10),
            Some("10.43.0.10".parse().unwrap())
        );
        assert_eq!(cidr("10.43.0.0/30").nth(4), None);
        assert_eq!(cidr("fd00::/64").nth(1), Some("fd00::1".parse().unwrap()));
        assert_eq!(cidr("0.0.0.0/0").nth(1), Some("0.0.0.1".parse().unwrap()));
        assert_eq!(
            cidr("10.42.0.0/16").first_subnet(24),
            Some(cidr("10.42.0.0/24"))
        );
        assert_eq!(cidr("10.42.0.0/24").first_subnet(16), None);
    }

    #[test]
    fn overlap() {
        assert!(cidr("10.42.0.0/16").overlaps(cidr("10.42.128.0/17")));
        assert!(cidr("10.42.128.0/17").overlaps(cidr("10.42.0.0/16")));
        assert!(!cidr("10.42.0.0/16").overlaps(cidr("10.43.0.0/16")));
        assert!(!cidr("10.42.0.0/16").overlaps(cidr("fd00::/16")));
    }
}
