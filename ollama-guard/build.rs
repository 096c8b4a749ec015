fn main() {
    let out = std::env::var("OUT_DIR").unwrap();
    std::fs::copy("../target/bpf/ollama-guard.bpf.o", format!("{out}/ollama-guard.bpf.o")).unwrap();
    println!("cargo:rerun-if-changed=../target/bpf/ollama-guard.bpf.o");
}
