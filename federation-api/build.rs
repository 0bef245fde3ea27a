//! Compiles the protobuf files when the feature `grpc-server` asks for them. protox parses them, so no protoc is needed.

use std::error::Error;

/// Where the files live, relative to this crate.
#[cfg(feature = "grpc-server")]
const ROOT: &str = "proto";
/// One file per service.
#[cfg(feature = "grpc-server")]
const FILES: [&str; 1] = ["strait/exchange/v1/exchange.proto"];

#[cfg(feature = "grpc-server")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={ROOT}");
    println!("cargo:rerun-if-changed=build.rs");
    let descriptors = protox::compile(FILES, [ROOT])?;
    tonic_prost_build::configure()
        // Streams are handed to us as bytes: tonic must not bring sockets.
        .build_transport(false)
        .bytes(".strait")
        .compile_fds(descriptors)?;
    Ok(())
}

#[cfg(not(feature = "grpc-server"))]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    Ok(())
}
