//! User, password and certificates.

use crate::world::{World, answers, connect, next};
use backends::registry::etcd::{Credentials, Options, Tls};
use backends::registry::{Event, RegistryError};

crate::tests! {
    a_user_signs_in_and_again_after_etcd_forgot_the_token
    a_wrong_password_is_no_passing_trouble
    authentication_turned_on_later_is_noticed
    credentials_are_harmless_where_none_are_asked_for
    etcd_is_reached_by_tls_and_only_with_the_right_certificates
}

const PASSWORD: &str = "a password";

fn turn_on_authentication(world: &World) {
    world.etcd().etcdctl(&["user", "add", &format!("root:{PASSWORD}")]);
    world.etcd().etcdctl(&["user", "grant-role", "root", "root"]);
    world.etcd().etcdctl(&["auth", "enable"]);
}

fn with_password(world: &World, password: &str) -> Options {
    let credentials = Credentials { user: "root".to_owned(), password: password.to_owned() };
    Options { credentials: Some(credentials), ..world.options() }
}

async fn a_user_signs_in_and_again_after_etcd_forgot_the_token() {
    let world = World::new().await;
    turn_on_authentication(&world);
    let registry = connect(&with_password(&world, PASSWORD));
    let start = registry.put("/a", "1").await.unwrap();
    let mut watch = registry.watch("/", start).await.unwrap();
    for n in 0..3 {
        let put = registry.put("/a", n.to_string()).await.unwrap();
        assert!(matches!(next(&mut watch).await, Ok(Event::Put(entry)) if entry.modified == put));
        // Tokens live in etcd's memory.
        world.etcd().kill();
        world.etcd().start();
        answers(&registry).await;
    }
}

async fn a_wrong_password_is_no_passing_trouble() {
    let world = World::new().await;
    turn_on_authentication(&world);
    for options in [with_password(&world, "wrong"), world.options()] {
        let refused = connect(&options).put("/a", "1").await.unwrap_err();
        assert!(matches!(refused, RegistryError::Store { .. }), "{refused}");
    }
}

async fn authentication_turned_on_later_is_noticed() {
    let world = World::new().await;
    let registry = connect(&with_password(&world, PASSWORD));
    registry.put("/a", "1").await.unwrap();
    turn_on_authentication(&world);
    registry.put("/a", "2").await.unwrap();
}

async fn credentials_are_harmless_where_none_are_asked_for() {
    let world = World::new().await;
    connect(&with_password(&world, PASSWORD)).put("/a", "1").await.unwrap();
}

async fn etcd_is_reached_by_tls_and_only_with_the_right_certificates() {
    let (world, other) = (World::with_tls(), World::with_tls());
    let (ours, foreign) = (world.etcd(), other.etcd());
    let identity = || Some((ours.pem("cert.pem"), ours.pem("key.pem")));
    let options = |authorities, identity| {
        let tls = Tls { authorities, identity, server_name: None };
        Options { tls: Some(tls), ..world.options() }
    };
    let registry = connect(&options(ours.pem("authority.pem"), identity()));
    answers(&registry).await;
    let refused =
        connect(&options(foreign.pem("authority.pem"), identity())).put("/a", "1").await.unwrap_err();
    assert!(refused.to_string().contains("certificate"), "{refused}");
    // etcd may hang up before its reason is read.
    assert!(connect(&options(ours.pem("authority.pem"), None)).put("/a", "1").await.is_err());
    assert!(connect(&world.options()).put("/a", "1").await.is_err(), "it speaks no plain text");
}
