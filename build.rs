//! Notes at build time what cannot be asked at run time: whether the H.264 decoder was built with assembly.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=OPENH264_NO_ASM");
    println!("cargo:rerun-if-env-changed=PATH");
    let assembly = if decoder_has_assembly() { "yes" } else { "no" };
    println!("cargo:rustc-env=DECODER_HAS_ASSEMBLY={assembly}");
}

/// The rule of the `openh264-sys2` build: `nasm` on x86 when it runs, the C compiler itself on ARM, none elsewhere.
fn decoder_has_assembly() -> bool {
    match std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() {
        Ok("x86_64" | "x86") => {
            std::env::var_os("OPENH264_NO_ASM").is_none()
                && Command::new("nasm").arg("-v").output().is_ok_and(|output| output.status.success())
        }
        Ok("aarch64" | "arm") => true,
        _ => false,
    }
}
