//! A machine for BPF instructions (Documentation/bpf/standardization/instruction-set.rst of the kernel),
//! as far as the programs on a packet's way use them: no atomic operations, and of the helpers the lookup
//! alone.

use anyhow::{Context as _, Result, bail, ensure};
use aya_obj::generated::bpf_insn;

use super::Path;

/// Where the packet, the context and the stack are: below 4 GiB, as the context has 32 bits for them.
const PACKET: u64 = 0x1000_0000;
const CONTEXT: u64 = 0x2000_0000;
const STACK: u64 = 0x3000_0000;
/// Bytes of the stack of one function, and functions that call each other.
const FRAME: u64 = 512;
const FRAMES: u64 = 8;
/// Where maps are: one for each step.
const MAPS: u64 = 0x1_0000_0000;
const STEP: u64 = 0x1_0000_0000;
/// What a lookup in an array of maps returns, and the slot.
const INNER: u64 = 0xffff_0000_0000_0000;
/// More than any packet takes.
const MOST: u32 = 100_000;

/// The helper that looks into a map (include/uapi/linux/bpf.h).
const MAP_LOOKUP_ELEM: i32 = 1;

/// A map of one processor.
#[derive(Clone, Debug)]
pub struct Memory {
    /// Its name.
    pub name: String,
    /// Bytes of a value.
    pub value: usize,
    /// Values.
    pub entries: usize,
    /// The values, each aligned to eight bytes.
    pub bytes: Vec<u8>,
    /// Whether its values are maps: the one behind it in the list for slot 0, and the next for slot 1.
    pub is_outer: bool,
}

impl Memory {
    /// Zeros.
    #[must_use]
    pub fn new(name: &str, value: usize, entries: usize) -> Self {
        let bytes = vec![0; value.next_multiple_of(8) * entries];
        Self { name: name.into(), value, entries, bytes, is_outer: false }
    }

    /// Writes from a position on.
    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// The machine with a program and its maps; a map's descriptor is its position.
#[derive(Clone, Debug)]
pub struct Machine {
    instructions: Vec<bpf_insn>,
    maps: Vec<Memory>,
    packet: Vec<u8>,
    context: Vec<u8>,
    stack: Vec<u8>,
    path: Path,
}

/// A function that is running, and the stack pointers of its callers.
struct Frame {
    registers: [u64; 11],
    next: usize,
}

impl Machine {
    /// With a program.
    #[must_use]
    pub fn new(instructions: Vec<bpf_insn>, maps: Vec<Memory>) -> Self {
        let stack = vec![0; (FRAME * FRAMES) as usize];
        Self {
            instructions,
            maps,
            packet: Vec::new(),
            context: Vec::new(),
            stack,
            path: Path::default(),
        }
    }

    /// Runs the program for a packet that came in by an interface (`struct xdp_md`). Returns what the program
    /// returns, and what it took.
    ///
    /// # Errors
    ///
    /// If it reads or writes where there is nothing, or does what this machine does not know.
    pub fn run(&mut self, packet: &[u8], ifindex: u32) -> Result<(u32, Path)> {
        self.packet = packet.to_vec();
        let end = PACKET as u32 + packet.len() as u32;
        let fields = [PACKET as u32, end, PACKET as u32, ifindex, 0, 0];
        self.context = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
        self.path = Path::default();
        let mut registers = [0; 11];
        registers[1] = CONTEXT;
        let returned = self.function(0, registers, 1)?;
        Ok((returned as u32, std::mem::take(&mut self.path)))
    }

    /// Runs a function to its end.
    fn function(&mut self, first: usize, mut registers: [u64; 11], depth: u64) -> Result<u64> {
        ensure!(depth <= FRAMES, "calls are nested too deeply");
        registers[10] = STACK + FRAME * depth;
        let mut frame = Frame { registers, next: first };
        loop {
            let at = frame.next;
            if let Some(returned) = self
                .step(&mut frame, depth)
                .with_context(|| format!("instruction {at}: {:?}", self.instructions.get(at)))?
            {
                return Ok(returned);
            }
        }
    }

    /// One instruction. `Some` at the end of the function.
    fn step(&mut self, frame: &mut Frame, depth: u64) -> Result<Option<u64>> {
        let insn = *self.instructions.get(frame.next).context("there is no instruction")?;
        frame.next += 1;
        self.path.instructions += 1;
        ensure!(self.path.instructions < MOST, "it does not come to an end");
        let (dst, src) = (insn.dst_reg() as usize, insn.src_reg() as usize);
        let immediate = insn.imm as i64 as u64;
        match insn.code & 7 {
            // LD: the one of two words.
            0 if insn.code == 0x18 => {
                let high = self.instructions.get(frame.next).context("half an instruction")?.imm;
                frame.next += 1;
                frame.registers[dst] = match src {
                    0 => u64::from(high as u32) << 32 | u64::from(insn.imm as u32),
                    // A map, and a place in its first value.
                    1 => map_base(insn.imm as usize),
                    2 => map_base(insn.imm as usize) + u64::from(high as u32),
                    other => bail!("a load of kind {other}"),
                };
            }
            1 => {
                let address = frame.registers[src].wrapping_add_signed(insn.off.into());
                frame.registers[dst] = self.load(address, size(insn.code))?;
            }
            kind @ (2 | 3) => {
                let address = frame.registers[dst].wrapping_add_signed(insn.off.into());
                ensure!(insn.code & 0xe0 == 0x60, "an atomic operation");
                let value = if kind == 3 { frame.registers[src] } else { immediate };
                self.store(address, size(insn.code), value)?;
            }
            kind @ (4 | 7) => {
                let operand = if insn.code & 8 == 0 { immediate } else { frame.registers[src] };
                let before = frame.registers[dst];
                frame.registers[dst] = arithmetic(insn, kind == 7, before, operand)?;
            }
            kind @ (5 | 6) => return self.jump(frame, insn, kind == 5, depth),
            _ => bail!("unknown"),
        }
        Ok(None)
    }

    fn jump(
        &mut self,
        frame: &mut Frame,
        insn: bpf_insn,
        is_wide: bool,
        depth: u64,
    ) -> Result<Option<u64>> {
        let (dst, src) = (insn.dst_reg() as usize, insn.src_reg() as usize);
        let target = |offset: i64| {
            usize::try_from(frame.next as i64 + offset).context("a jump before the beginning")
        };
        match insn.code & 0xf0 {
            0x90 => return Ok(Some(frame.registers[0])),
            0x80 if src == 1 => {
                let returned =
                    self.function(target(insn.imm.into())?, frame.registers, depth + 1)?;
                frame.registers[0] = returned;
            }
            0x80 if insn.imm == MAP_LOOKUP_ELEM => {
                frame.registers[0] = self.lookup(frame.registers[1], frame.registers[2])?;
            }
            0x80 => bail!("helper {}", insn.imm),
            0x00 => frame.next = target(insn.off.into())?,
            operation => {
                let operand =
                    if insn.code & 8 == 0 { insn.imm as i64 as u64 } else { frame.registers[src] };
                let (mut one, mut other) = (frame.registers[dst], operand);
                let (mut signed, mut signed_other) = (one as i64, other as i64);
                if !is_wide {
                    (one, other) = (u64::from(one as u32), u64::from(other as u32));
                    (signed, signed_other) = (i64::from(one as i32), i64::from(other as i32));
                }
                let is_taken = match operation {
                    0x10 => one == other,
                    0x20 => one > other,
                    0x30 => one >= other,
                    0x40 => one & other != 0,
                    0x50 => one != other,
                    0x60 => signed > signed_other,
                    0x70 => signed >= signed_other,
                    0xa0 => one < other,
                    0xb0 => one <= other,
                    0xc0 => signed < signed_other,
                    0xd0 => signed <= signed_other,
                    _ => bail!("an unknown jump"),
                };
                if is_taken {
                    frame.next = target(insn.off.into())?;
                }
            }
        }
        Ok(None)
    }

    /// `bpf_map_lookup_elem` in an array.
    fn lookup(&mut self, map: u64, key: u64) -> Result<u64> {
        let key = self.load(key, 4)? as usize;
        let number = if map >= INNER {
            let outer =
                self.maps.iter().position(|map| map.is_outer).context("no array of maps")?;
            outer + 1 + (map - INNER) as usize
        } else {
            (map.checked_sub(MAPS).context("no map")? / STEP) as usize
        };
        let found = self.maps.get(number).with_context(|| format!("no map {number}"))?;
        self.path.lookups.push(found.name.clone());
        Ok(if key >= found.entries {
            0
        } else if found.is_outer {
            INNER + key as u64
        } else {
            map_base(number) + (key * found.value.next_multiple_of(8)) as u64
        })
    }

    /// What is at an address, and where in it.
    fn place(&mut self, address: u64, size: usize) -> Result<&mut [u8]> {
        let (bytes, base) = if address >= MAPS {
            let number = ((address - MAPS) / STEP) as usize;
            let map = self.maps.get_mut(number).context("no such map")?;
            (&mut map.bytes, map_base(number))
        } else if address >= STACK {
            (&mut self.stack, STACK)
        } else if address >= CONTEXT {
            (&mut self.context, CONTEXT)
        } else {
            (&mut self.packet, PACKET)
        };
        let at = address.checked_sub(base).with_context(|| format!("address {address:#x}"))?;
        let range = at as usize..at as usize + size;
        bytes.get_mut(range).with_context(|| format!("{size} bytes at {address:#x}"))
    }

    fn load(&mut self, address: u64, size: usize) -> Result<u64> {
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(self.place(address, size)?);
        Ok(u64::from_le_bytes(bytes))
    }

    fn store(&mut self, address: u64, size: usize, value: u64) -> Result<()> {
        self.place(address, size)?.copy_from_slice(&value.to_le_bytes()[..size]);
        Ok(())
    }
}

const fn map_base(number: usize) -> u64 {
    MAPS + STEP * number as u64
}

const fn size(code: u8) -> usize {
    match code & 0x18 {
        0x00 => 4,
        0x08 => 2,
        0x10 => 1,
        _ => 8,
    }
}

fn arithmetic(insn: bpf_insn, is_wide: bool, before: u64, operand: u64) -> Result<u64> {
    if insn.code & 0xf0 == 0xd0 {
        let bytes = (insn.imm / 8) as usize;
        let mut ordered = before.to_le_bytes();
        ordered[bytes..].fill(0);
        // To big endian, or to little, which this machine is.
        if is_wide || insn.code & 8 != 0 {
            ordered[..bytes].reverse();
        }
        return Ok(u64::from_le_bytes(ordered));
    }
    let (mut one, mut other) = (before, operand);
    if !is_wide {
        (one, other) = (u64::from(one as u32), u64::from(other as u32));
    }
    let shift = (other & if is_wide { 63 } else { 31 }) as u32;
    let result = match insn.code & 0xf0 {
        0x00 => one.wrapping_add(other),
        0x10 => one.wrapping_sub(other),
        0x20 => one.wrapping_mul(other),
        0x30 => one.checked_div(other).unwrap_or(0),
        0x40 => one | other,
        0x50 => one & other,
        0x60 => one << shift,
        0x70 => one >> shift,
        0x80 => one.wrapping_neg(),
        0x90 => one.checked_rem(other).unwrap_or(one),
        0xa0 => one ^ other,
        0xb0 => other,
        0xc0 if is_wide => (one as i64 >> shift) as u64,
        0xc0 => (one as i32 >> shift) as u64,
        _ => bail!("unknown arithmetic"),
    };
    Ok(if is_wide { result } else { u64::from(result as u32) })
}
