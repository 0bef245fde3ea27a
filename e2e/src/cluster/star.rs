//! East in the middle, importing from clusters each behind a link of its own: cutting the link is cutting the cluster off.

use std::time::Duration;

use super::{Cluster, Result, Rules, Service};
use crate::{
    client::Dial,
    link::{Conditions, Link},
};

/// A cluster that east imports from.
#[derive(Debug)]
pub struct PeerSpec<'a> {
    /// Its ClusterId.
    pub id: &'a str,
    /// What it exports; east imports all of it.
    pub services: Vec<Service>,
    /// Priority of the imports.
    pub priority: u16,
    /// Round trip between east and it.
    pub rtt: Duration,
}

/// A peer of east with the link before it. East dials, so that everything between the two crosses the link.
#[derive(Debug)]
pub struct Peer {
    /// The cluster.
    pub cluster: Cluster,
    /// What east calls its address.
    pub link: Link,
}

/// East and its peers, federated and carrying.
#[derive(Debug)]
pub struct Star {
    /// The importer.
    pub east: Cluster,
    /// In the order of their specs.
    pub peers: Vec<Peer>,
}

impl Star {
    /// Starts all, federates, waits until every service of every peer can be reached from east. `spec` is for every Cluster.
    ///
    /// # Errors
    /// [`super::ClusterError`].
    pub async fn start(spec: &str, peers: &[PeerSpec<'_>]) -> Result<Self> {
        let mut star = Self {
            east: Cluster::with("east", spec)?,
            peers: Vec::new(),
        };
        star.east.spawn(&[])?;
        for (seed, peer) in (1..).zip(peers) {
            let mut cluster = Cluster::with(peer.id, spec)?;
            for service in &peer.services {
                cluster.export(service)?;
            }
            cluster.spawn(&[])?;
            let conditions = Conditions::delayed(peer.rtt / 2);
            let link = Link::start(cluster.addresses().gateway, conditions, seed).await?;
            star.peers.push(Peer { cluster, link });
        }
        star.east.ready().await?;
        for peer in &mut star.peers {
            peer.cluster.ready().await?;
        }
        star.federate(peers).await?;
        star.until_whole(peers).await?;
        Ok(star)
    }

    async fn federate(&self, specs: &[PeerSpec<'_>]) -> Result<()> {
        let east = self.east.bundle().await?;
        for (peer, spec) in self.peers.iter().zip(specs) {
            let rules: Vec<_> = spec.services.iter().map(Service::rule).collect();
            let exports = Rules::exports(&format!("[{}]", rules.join(", ")));
            let import = |s: &Service| {
                format!(
                    "{{namespace: {}, name: {}, priority: {}}}",
                    s.namespace, s.name, spec.priority
                )
            };
            let imports: Vec<_> = spec.services.iter().map(import).collect();
            let imports = Rules::imports(&format!("[{}]", imports.join(", ")));
            peer.cluster.trust("east", &east, None, &exports)?;
            let trust = peer.cluster.bundle().await?;
            self.east
                .trust(spec.id, &trust, Some(peer.link.address()), &imports)?;
        }
        Ok(())
    }

    /// Waits until every service of every peer can be reached from east.
    ///
    /// # Errors
    /// [`super::ClusterError::TimedOut`].
    pub async fn until_whole(&self, specs: &[PeerSpec<'_>]) -> Result<()> {
        for spec in specs {
            for service in &spec.services {
                self.east.until_imported(&service.key(), &[spec.id]).await?;
            }
        }
        Ok(())
    }

    /// Both ways from east to a service: through SOCKS and straight to its VIP.
    ///
    /// # Errors
    /// [`super::ClusterError`] if it has no VIP.
    pub async fn ways(&self, service: &Service) -> Result<[Dial; 2]> {
        let vip = self.east.until_imported(&service.key(), &[]).await?;
        let socks = self.east.socks(&service.namespace, &service.name, service.port);
        Ok([socks, Dial::Direct((vip, service.port).into())])
    }
}
