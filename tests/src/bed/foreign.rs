//! An XDP program of somebody else: two instructions, loaded and attached without any of our
//! code for it.

use std::path::Path;

use anyhow::{Context, Result};
use aya::{
    Ebpf, TestRun as _, TestRunOptions,
    programs::{
        ProgramError, Xdp, XdpMode,
        links::{FdLink, PinnedLink},
        xdp::{XdpLink, XdpLinkId},
    },
};

use super::Namespace;

/// Leaves every packet to the kernel.
pub const XDP_PASS: u8 = 2;
/// Sends every packet back where it came from.
pub const XDP_TX: u8 = 3;

pub(super) const NAME: &str = "foreign";
pub(super) const XDP: &str = "xdp";

/// An attached foreign program. Dropping it detaches it.
#[derive(Debug)]
pub struct Foreign {
    object: Ebpf,
    link: Option<XdpLinkId>,
}

impl Foreign {
    /// Loads a program that does this with every packet, and attaches it.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn attach(
        namespace: &Namespace,
        interface: &str,
        action: u8,
        mode: XdpMode,
    ) -> Result<Self> {
        let mut object =
            Ebpf::load(&object_of(XDP, action)).context("loading a foreign program")?;
        let program: &mut Xdp =
            object.program_mut(NAME).context("the program is not in the object")?.try_into()?;
        program.load()?;
        let link = namespace
            .enter(|| program.attach(interface, mode))?
            .with_context(|| format!("attaching a foreign program to {interface}"))?;
        Ok(Self { object, link: Some(link) })
    }

    /// Loads such a program, and puts it into somebody else's pinned link.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn put_into(link: &Path, action: u8) -> Result<Self> {
        let mut object =
            Ebpf::load(&object_of(XDP, action)).context("loading a foreign program")?;
        let program: &mut Xdp =
            object.program_mut(NAME).context("the program is not in the object")?.try_into()?;
        program.load()?;
        let link = XdpLink::try_from(FdLink::from(PinnedLink::from_pin(link)?))?;
        let id = program.attach_to_link(link)?;
        // The pin keeps the link; only our descriptor of it is closed.
        drop(program.take_link(id)?);
        Ok(Self { object, link: None })
    }

    /// The program's id.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn program_id(&self) -> Result<u64> {
        let program: &Xdp =
            self.object.program(NAME).context("the program is not in the object")?.try_into()?;
        Ok(u64::from(program.info()?.id()))
    }

    /// Detaches it.
    ///
    /// # Errors
    ///
    /// If it was not attached any more.
    pub fn detach(mut self) -> Result<()> {
        let link = self.link.take().context("attached once")?;
        let program: &mut Xdp = self
            .object
            .program_mut(NAME)
            .context("the program is not in the object")?
            .try_into()?;
        Ok(program.detach(link)?)
    }
}

/// mov r0, action; exit
pub(super) fn returning(action: u8) -> Vec<u8> {
    [[0xb7, 0, 0, 0, action, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]].concat()
}

/// Whether this kernel's test runs take a frame of which only a part lies in the first buffer.
/// Asked with a program that is not ours, so that none of our faults can look like the kernel's.
///
/// # Errors
///
/// If the kernel refuses it in another way than `EINVAL`.
pub fn takes_short_linear_part() -> Result<bool> {
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress.
    let context: Vec<u8> = [0, 20, 0, 0, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
    let mut object =
        Ebpf::load(&object_file(XDP, returning(XDP_PASS))).context("loading a foreign program")?;
    let program: &mut Xdp =
        object.program_mut(NAME).context("the program is not in the object")?.try_into()?;
    program.load()?;
    let mut options = TestRunOptions::new();
    options.data_in = Some(&[0; 64]);
    options.ctx_in = Some(&context);
    match program.test_run(options) {
        Ok(_) => Ok(true),
        Err(ProgramError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::EINVAL) =>
        {
            Ok(false)
        }
        Err(error) => Err(error).context("a test run of a foreign program"),
    }
}

/// Section indices in the object file below.
const TEXT: u16 = 1;
const LICENSE: u16 = 2;
const SYMBOLS: u16 = 3;
const STRINGS: u16 = 4;

/// One section of an object file: name, type, flags, content, linked section, info, entry size.
struct Section {
    name: &'static str,
    kind: u32,
    flags: u64,
    content: Vec<u8>,
    link: u16,
    info: u32,
    entry: u64,
}

/// An object with a program of a type that does this with every packet.
pub(super) fn object_of(section: &'static str, action: u8) -> Vec<u8> {
    object_file(section, returning(action))
}

/// A little-endian ELF64 relocatable for BPF with one function in a section, which says of what
/// type the program is.
pub(super) fn object_file(section: &'static str, text: Vec<u8>) -> Vec<u8> {
    let names = [NAME, section, "license", ".symtab", ".strtab"];
    let mut strings = vec![0];
    let mut at = |wanted: &str| {
        let position = names.iter().take_while(|name| **name != wanted);
        position.map(|name| name.len() + 1).sum::<usize>() as u32 + 1
    };
    for name in names {
        strings.extend(name.as_bytes());
        strings.push(0);
    }
    // The null symbol, then a global function (0x12) at the begin of the section.
    let mut symbols = vec![0; 24];
    symbols.extend(at(NAME).to_le_bytes());
    symbols.extend([0x12, 0]);
    symbols.extend(TEXT.to_le_bytes());
    symbols.extend(0_u64.to_le_bytes());
    symbols.extend((text.len() as u64).to_le_bytes());

    let plain =
        |name, content| Section { name, kind: 1, flags: 2, content, link: 0, info: 0, entry: 0 };
    let sections = [
        Section { flags: 6, ..plain(section, text) },
        plain("license", b"GPL\0".to_vec()),
        Section {
            kind: 2,
            flags: 0,
            link: STRINGS,
            info: 1,
            entry: 24,
            ..plain(".symtab", symbols)
        },
        Section { kind: 3, flags: 0, ..plain(".strtab", strings) },
    ];
    debug_assert_eq!(sections.len(), usize::from(STRINGS));
    debug_assert_eq!(sections[usize::from(LICENSE) - 1].name, "license");
    debug_assert_eq!(sections[usize::from(SYMBOLS) - 1].name, ".symtab");
    written(&sections, &mut at)
}

fn written(sections: &[Section], name_at: &mut dyn FnMut(&str) -> u32) -> Vec<u8> {
    const HEADER: usize = 64;
    let mut content = Vec::new();
    let mut headers = vec![0; 64];
    for section in sections {
        content.resize(content.len().next_multiple_of(8), 0);
        headers.extend(name_at(section.name).to_le_bytes());
        headers.extend(section.kind.to_le_bytes());
        let offset = (HEADER + content.len()) as u64;
        for word in [section.flags, 0, offset, section.content.len() as u64] {
            headers.extend(word.to_le_bytes());
        }
        headers.extend(u32::from(section.link).to_le_bytes());
        headers.extend(section.info.to_le_bytes());
        headers.extend(8_u64.to_le_bytes());
        headers.extend(section.entry.to_le_bytes());
        content.extend(&section.content);
    }
    content.resize(content.len().next_multiple_of(8), 0);

    // Magic, 64 bits, little-endian, version 1; then relocatable, for BPF.
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.extend(1_u16.to_le_bytes());
    file.extend(247_u16.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    for word in [0_u64, 0, (HEADER + content.len()) as u64] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for half in [HEADER as u16, 0, 0, 64, sections.len() as u16 + 1, STRINGS] {
        file.extend(half.to_le_bytes());
    }
    file.extend(content);
    file.extend(headers);
    file
}
