// The network called from Rust: caller_rust image.npy prints the largest accumulator of each head and where it is.
use std::{env, fs, process, ptr, slice};

#[path = "../net.rs"]
mod net;

fn main() {
    let path = env::args().nth(1).unwrap_or("../golden/0/image.npy".into());
    let npy = fs::read(&path).unwrap_or_default();
    if npy.len() < net::IMAGE {
        eprintln!("{path}: no image of {} pixels there", net::IMAGE);
        process::exit(1);
    }
    let image = &npy[npy.len() - net::IMAGE..]; // pixels are the end of the file
    let mut arena = vec![0i64; net::ARENA / 8]; // aligned as net_run wants it
    let mut heads = [ptr::null(); net::HEADS];
    unsafe { net::net_run(image.as_ptr(), arena.as_mut_ptr().cast(), heads.as_mut_ptr(), None, ptr::null_mut()) };
    for (k, (&head, &size)) in heads.iter().zip(&net::HEAD_SIZES).enumerate() {
        let sums = unsafe { slice::from_raw_parts(head, size) }; // lies in the arena until the next run
        let top = *sums.iter().max().unwrap();
        println!("head {k}: {top} at {}", sums.iter().position(|&sum| sum == top).unwrap());
    }
}
