//! Generates, for the tests alone, a client from nothing but the seeds' own protocol definition.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=tests/seed_client/seed.proto");
    let files = protox::compile(["seed.proto"], ["tests/seed_client"])?;
    tonic_prost_build::configure().build_server(false).compile_fds(files)?;
    Ok(())
}
