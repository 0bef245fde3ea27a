//! The fixture itself: clusters federate by static trust and by invite, and leave nothing behind.

use std::time::Duration;

use strait_e2e::{
    apps::{self, eventually, loopback},
    client::get,
    cluster::{Cluster, PATIENCE, Rules, federate, greeter_service},
    process::is_alive,
};

const HOST: &str = "greeter.demo.svc.clusterset.local";

#[tokio::test]
async fn static_trust_a_kill_and_a_restart() {
    let app = apps::http::greeter(loopback(), "west").await.unwrap();
    let (mut east, mut west) = (Cluster::new("east").unwrap(), Cluster::new("west").unwrap());
    let service = greeter_service(app.address());
    west.export(&service).unwrap();
    east.start().await.unwrap();
    west.start().await.unwrap();
    let rule = format!("[{}]", service.rule());
    federate(&east, &west, west.addresses().gateway, &rule, &rule)
        .await
        .unwrap();
    let vip = east.until_imported("demo/greeter", &["west"]).await.unwrap();

    let dial = east.socks("demo", "greeter", 8080);
    let answer = get(&dial, HOST, "/", Some("1"), PATIENCE).await.unwrap();
    assert_eq!(answer.cluster().as_deref(), Some("west"));
    assert!(east.metric("strait_streams_total", &[]).await.unwrap() >= 0.0);

    west.kill9().await.unwrap();
    west.start().await.unwrap();
    east.kill9().await.unwrap();
    east.start().await.unwrap();
    assert_eq!(east.until_imported("demo/greeter", &["west"]).await.unwrap(), vip);
    let answer = get(&dial, HOST, "/", Some("2"), PATIENCE).await.unwrap();
    assert_eq!(answer.cluster().as_deref(), Some("west"));

    let (pid, dir) = (east.process().unwrap().pid(), east.dir().to_owned());
    drop(east);
    eventually(Duration::from_secs(10), || !is_alive(pid))
        .await
        .unwrap();
    assert!(!dir.exists());
}

#[tokio::test]
async fn an_invite_and_a_join() {
    let app = apps::http::greeter(loopback(), "west").await.unwrap();
    let (mut east, mut west) = (Cluster::new("east").unwrap(), Cluster::new("west").unwrap());
    east.settings(&format!("  advertise: [\"{}\"]\n", east.addresses().gateway))
        .unwrap();
    let service = greeter_service(app.address());
    west.export(&service).unwrap();
    east.start().await.unwrap();
    west.start().await.unwrap();
    let token = east.invite("west").await.unwrap();
    west.join(&token, "east").await.unwrap();
    let rule = format!("[{}]", service.rule());
    west.set_rules("east", &Rules::exports(&rule)).unwrap();
    east.set_rules("west", &Rules::imports(&rule)).unwrap();
    east.until_imported("demo/greeter", &["west"]).await.unwrap();
    let answer = get(&east.socks("demo", "greeter", 8080), HOST, "/", None, PATIENCE)
        .await
        .unwrap();
    assert_eq!(answer.cluster().as_deref(), Some("west"));
    assert!(west.stop().await.unwrap().success());
}
