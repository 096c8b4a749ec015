//! The far end of a tun device: whoever holds it is the wire, and may lie about what it is.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{ChildStdin, ChildStdout, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::net::if_::if_nametoindex;

use super::{Namespace, Process, start, until};

const PATIENCE: Duration = Duration::from_secs(10);

/// Opens the device, says what type of link it is, and then passes packets as lines of
/// hexadecimal digits. Perl, because each of its steps is an ioctl(2), and because every Debian has
/// it. `TUNSETIFF` with `IFF_TUN | IFF_NO_PI`, `TUNSETLINK` (include/uapi/linux/if_tun.h).
const SCRIPT: &str = r#"
use strict;
my ($name, $type) = @ARGV;
open(my $tun, "+<", "/dev/net/tun") or die "/dev/net/tun: $!";
ioctl($tun, 0x400454ca, pack("a16Sx22", $name, 0x1001)) or die "TUNSETIFF: $!";
ioctl($tun, 0x400454cd, $type + 0) or die "TUNSETLINK: $!";
$| = 1;
my $parent = $$;
if (my $child = fork) {
    while (sysread($tun, my $packet, 65536)) { print unpack("H*", $packet), "\n"; }
} else {
    while (<STDIN>) { chomp; syswrite($tun, pack("H*", $_)) or die "write: $!"; }
    kill "TERM", $parent;
}
"#;

/// A tun device that a test holds. Dropping it removes the device.
pub struct TunEnd {
    input: ChildStdin,
    packets: Receiver<Vec<u8>>,
    _holder: Process,
}

impl TunEnd {
    /// Makes a device of this name and ARPHRD type. It carries IP packets, whatever the type says.
    ///
    /// # Errors
    ///
    /// If it can't be made.
    pub fn open(namespace: &Namespace, name: &str, arphrd: u16) -> Result<Self> {
        let mut command = namespace.command("perl");
        command.args(["-e", SCRIPT, name, &arphrd.to_string()]);
        let mut holder = start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let input = holder.take_stdin().context("a pipe to perl")?;
        let output = holder.take_stdout().context("a pipe from perl")?;
        until(&format!("{name} by `perl`"), PATIENCE, || {
            namespace.enter(|| if_nametoindex(name).is_ok()).unwrap_or(false)
        })?;
        let (sender, packets) = channel();
        thread::spawn(move || read(output, |packet| sender.send(packet).is_ok()));
        Ok(Self { input, packets, _holder: holder })
    }

    /// Lets a packet arrive at the host.
    ///
    /// # Errors
    ///
    /// If the device is gone.
    pub fn send(&mut self, packet: &[u8]) -> Result<()> {
        let hex: String = packet.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(self.input, "{hex}").context("the tun device")
    }

    /// Waits for a packet that the host sends.
    ///
    /// # Errors
    ///
    /// If the device is gone.
    pub fn wait_for(
        &self,
        limit: Duration,
        is_it: impl Fn(&[u8]) -> bool,
    ) -> Result<Option<Vec<u8>>> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.packets.recv_timeout(left) {
                Ok(packet) if is_it(&packet) => return Ok(Some(packet)),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Err(RecvTimeoutError::Disconnected) => {
                    ensure!(false, "the tun device is gone");
                }
            }
        }
    }
}

fn read(output: ChildStdout, mut each: impl FnMut(Vec<u8>) -> bool) {
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        let byte = |at: usize| u8::from_str_radix(line.get(at..at + 2)?, 16).ok();
        let packet = (0..line.len()).step_by(2).map_while(byte).collect();
        if !each(packet) {
            return;
        }
    }
}
