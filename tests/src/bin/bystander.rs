//! A process that stands about under whatever name it is started by: it listens where
//! `BYSTANDER_LISTEN` says, connects where `BYSTANDER_CONNECT` says, says "ready", and ignores its
//! arguments, until it is killed or its standard input ends.

use std::{
    env, io,
    net::{TcpListener, TcpStream},
};

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let addresses = |variable: &str| -> Vec<String> {
        let value = env::var(variable).unwrap_or_default();
        value.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect()
    };
    let listeners: Result<Vec<_>> = addresses("BYSTANDER_LISTEN")
        .iter()
        .map(|address| TcpListener::bind(address).with_context(|| format!("listen on {address}")))
        .collect();
    let streams: Result<Vec<_>> = addresses("BYSTANDER_CONNECT")
        .iter()
        .map(|address| TcpStream::connect(address).with_context(|| format!("reach {address}")))
        .collect();
    let _held = (listeners?, streams?);
    println!("ready");
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}
