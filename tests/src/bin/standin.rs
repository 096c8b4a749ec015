//! A stand-in for Ollama's HTTP API, as a process: `standin --listen [::]:11434`.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use ollama_guard_tests::bed::Standin;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let address: SocketAddr = match arguments.as_slice() {
        [] => "[::]:11434".parse()?,
        [flag, address] if flag == "--listen" => {
            address.parse().with_context(|| format!("{address} is no address with a port"))?
        }
        _ => bail!("usage: standin [--listen ADDRESS:PORT]"),
    };
    let standin = Standin::start(address)?;
    println!("a stand-in for Ollama listens on {address}");
    standin.serve();
    Ok(())
}
