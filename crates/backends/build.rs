//! With the feature `etcd`: generates the client of etcd's API with protox, so that no protoc is needed.

#[cfg(feature = "etcd")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/etcd.proto");
    let files = protox::compile(["etcd.proto"], ["proto"])?;
    // `Bytes` for values: a message is decoded without copying each of them.
    tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        .bytes(".")
        .compile_fds(files)?;
    Ok(())
}

#[cfg(not(feature = "etcd"))]
fn main() {}
