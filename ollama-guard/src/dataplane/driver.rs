//! The driver of an interface, asked of the interface itself.
//!
//! `/sys/class/net` shows the network namespace in which it was mounted, which need not be the
//! caller's; this ioctl asks in the caller's.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// `SIOCETHTOOL` (include/uapi/linux/sockios.h).
const SIOCETHTOOL: libc::c_ulong = 0x8946;
/// `ETHTOOL_GDRVINFO` (include/uapi/linux/ethtool.h).
const ETHTOOL_GDRVINFO: u32 = 3;
const IFNAMSIZ: usize = 16;

/// `struct ethtool_drvinfo`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    version: [u8; 32],
    firmware: [u8; 32],
    bus: [u8; 32],
    reserved: [[u8; 32]; 1],
    reserved2: [u8; 12],
    counts: [u32; 5],
}

/// `struct ifreq` with its union as a pointer, padded to the kernel's size.
#[repr(C)]
struct Request {
    name: [u8; IFNAMSIZ],
    data: *mut DriverInfo,
    padding: [u8; 16],
}

/// The name of an interface's driver, in the calling thread's network namespace, as the kernel
/// says it: `virtio_net`, `veth`. Needs no privilege.
///
/// # Errors
///
/// `EOPNOTSUPP` if the driver does not tell, `ENODEV` if there is no such interface.
pub fn driver_name(interface: &str) -> io::Result<String> {
    let name = interface.as_bytes();
    if name.len() >= IFNAMSIZ {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut info: DriverInfo = bytemuck::Zeroable::zeroed();
    info.command = ETHTOOL_GDRVINFO;
    let mut request = Request { name: [0; IFNAMSIZ], data: &raw mut info, padding: [0; 16] };
    request.name[..name.len()].copy_from_slice(name);
    // SAFETY: the request has the layout of `struct ifreq`, and points to a `struct
    // ethtool_drvinfo`; both are writable and outlive the call.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let end = info.driver.iter().position(|byte| *byte == 0).unwrap_or(info.driver.len());
    Ok(String::from_utf8_lossy(&info.driver[..end]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layouts_are_the_kernels() {
        assert_eq!(size_of::<DriverInfo>(), 196);
        assert_eq!(size_of::<Request>(), size_of::<libc::ifreq>());
    }

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        let error = driver_name("nosuchif0").expect_err("no such interface");
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        assert!(driver_name("a-name-that-is-too-long").is_err());
    }
}
