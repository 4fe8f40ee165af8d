// One open to write and one to read, as Rust's own library does it.
use std::env;
use std::fs::{File, OpenOptions};
use std::io::{Read, Result, Write};

fn main() -> Result<()> {
    let name = env::args().nth(1).expect("no port");
    let mut out = OpenOptions::new().write(true).open(&name)?;
    let mut port = File::open(&name)?;
    out.write_all(b"hello")?;
    let mut text = [0; 80];
    let count = port.read(&mut text)?;
    println!("{}", String::from_utf8_lossy(&text[..count]));
    Ok(())
}
