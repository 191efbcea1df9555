//! With the feature `etcd`: generates the client of etcd's API with protox, so that no protoc is needed. With the feature
//! `kafka`: builds what takes the place of one faulty function of librdkafka.

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> Outcome {
    generate_etcd()?;
    replace_hints();
    Ok(())
}

#[cfg(feature = "etcd")]
fn generate_etcd() -> Outcome {
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
fn generate_etcd() -> Outcome {
    Ok(())
}

#[cfg(feature = "kafka")]
fn replace_hints() {
    println!("cargo:rerun-if-changed=src/bus/kafka/hints.c");
    // Whole, because nothing asks for it before librdkafka does, which the linker meets later.
    cc::Build::new().file("src/bus/kafka/hints.c").link_lib_modifier("+whole-archive").compile("kafka_hints");
    // Each binary has to say this for itself; the program does in its own build.rs.
    println!("cargo:rustc-link-arg-tests=-Wl,--wrap=rd_kafka_metadata_update_op");
}

#[cfg(not(feature = "kafka"))]
fn replace_hints() {}
