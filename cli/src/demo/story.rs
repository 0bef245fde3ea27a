//! The story: the demo's steps in their order, each an action under load and a verdict on what the load saw.
//!
//! Owns the order, the actions and the waiting. The verdicts are made in `judge`. Called by the demo.

use std::{
    collections::BTreeMap,
    fs, io,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::json;
use strait_federation_api::view::ImportView;
use tokio::time::sleep;

use super::{
    ask::{self, POLL, wait},
    cluster::{Cluster, SERVICE, SERVICE_NAME, SERVICE_PORT},
    judge::{self, Verdict, Window},
    load::Load,
    manifests,
    ports::{self, Ports},
    record,
    tell::Teller,
};
use crate::{args::DemoArgs, client::dns, local::RotateAction};

/// Names of the steps, in order: they are part of the JSON output.
pub(crate) const STEPS: [&str; 12] = [
    "started",
    "joined",
    "imported",
    "steady-traffic",
    "west-killed",
    "west-returned",
    "root-rotated",
    "edited-live",
    "west-unexported",
    "refused",
    "exported-again",
    "nothing-twice",
];

/// How long traffic is watched where nothing is expected to change.
const WATCH: Duration = Duration::from_secs(2);
/// How long traffic is watched after the kill: long enough for every promise to have come due twice.
const WATCH_KILL: Duration = Duration::from_secs(3);
/// A stretch in which only one cluster answers counts as settled.
const SETTLED: Duration = Duration::from_millis(800);

/// What a step gives: a verdict, or why there is none.
pub(super) type Told = Result<Verdict, String>;

/// Everything the steps act on.
pub(crate) struct Story {
    pub(super) args: DemoArgs,
    pub(crate) east: Cluster,
    pub(crate) west: Cluster,
    pub(crate) north: Cluster,
    octet: u8,
    load: Option<Load>,
}

impl Story {
    /// Makes folders and manifests; starts nothing.
    ///
    /// # Errors
    /// As the system gives.
    pub(crate) fn new(args: DemoArgs, dir: &std::path::Path) -> io::Result<Self> {
        let mut ports = Ports::new();
        let mut cluster = |name| Cluster::new(dir, name, &mut ports);
        let (east, west, north) = (cluster("east")?, cluster("west")?, cluster("north")?);
        let story = Self {
            args,
            east,
            west,
            north,
            octet: ports::octet(),
            load: None,
        };
        for (subnet, cluster) in (1..).zip([&story.east, &story.west, &story.north]) {
            let advertise = !(story.args.dial_out_only && cluster.name == "west");
            manifests::write_cluster(cluster, story.octet, subnet, advertise)?;
        }
        for cluster in [&story.west, &story.north] {
            manifests::write_service(cluster)?;
            manifests::write_export(cluster)?;
        }
        Ok(story)
    }

    /// Tells the steps until one does not hold. `Err` is that step's name.
    pub(crate) async fn tell(&mut self, teller: &Teller) -> Result<(), &'static str> {
        for (index, name) in STEPS.into_iter().enumerate() {
            let start = Instant::now();
            let told = self.step(name).await;
            let verdict = told
                .unwrap_or_else(|why| Verdict::new(false, format!("{name}: {why}"), json!({"error": why})));
            teller.step(index + 1, name, &verdict, start.elapsed());
            if !verdict.ok {
                return Err(name);
            }
        }
        Ok(())
    }

    /// The load, once it runs.
    pub(crate) const fn load(&self) -> Option<&Load> {
        self.load.as_ref()
    }

    /// The clusters.
    pub(crate) fn clusters(&mut self) -> [&mut Cluster; 3] {
        [&mut self.east, &mut self.west, &mut self.north]
    }

    async fn step(&mut self, name: &str) -> Told {
        match name {
            "started" => self.started().await,
            "joined" => self.joined().await,
            "imported" => self.imported().await,
            "steady-traffic" => self.steady().await,
            "west-killed" => self.west_killed().await,
            "west-returned" => self.west_returned().await,
            "root-rotated" => self.root_rotated().await,
            "edited-live" => self.edited_live().await,
            "west-unexported" => self.west_unexported().await,
            "refused" => self.refused().await,
            "exported-again" => self.exported_again().await,
            "nothing-twice" => self.nothing_twice().await,
            other => Err(format!("no such step {other:?}")),
        }
    }

    async fn started(&mut self) -> Told {
        let start = Instant::now();
        for cluster in self.clusters() {
            let with_greeter = cluster.name != "east";
            cluster
                .start(with_greeter)
                .map_err(|e| format!("{} does not start: {e}", cluster.name))?;
        }
        for cluster in self.clusters() {
            ask::ready(cluster).await?;
        }
        let pids: BTreeMap<_, _> = self.clusters().map(|c| (c.name, c.pids())).into_iter().collect();
        let listed: Vec<_> = pids
            .iter()
            .map(|(name, pids)| format!("{name} pid {}", pids.first().unwrap_or(&0)))
            .collect();
        let text = format!(
            "three clusters started in {} ms: {}",
            start.elapsed().as_millis(),
            listed.join(", ")
        );
        let folder = self.east.dir().parent().map(PathBuf::from);
        Ok(Verdict::new(true, text, json!({"pids": pids, "folder": folder})))
    }

    async fn imported(&mut self) -> Told {
        let start = Instant::now();
        for (peer, priority) in [(&self.west, 1), (&self.north, 2)] {
            ask::set(peer, "east", "exports", manifests::EXPORTS)?;
            ask::set(&self.east, peer.name, "imports", &manifests::imports(priority))?;
        }
        let import = self.import_from(&["north", "west"]).await?;
        let vip = import.vips.first().ok_or("the import has no virtual address")?;
        let (server, vip) = (self.east.addresses.dns, *vip);
        let answer = wait("east's DNS to answer with the virtual address", async || {
            Ok(dns::addresses(server, SERVICE_NAME)
                .await
                .ok()
                .filter(|found| *found == [vip]))
        })
        .await?;
        let text = format!(
            "west and north export {SERVICE}, east imports it from both in {} ms: {SERVICE_NAME} is {vip} here",
            start.elapsed().as_millis()
        );
        Ok(Verdict::new(
            true,
            text,
            json!({"vip": vip, "name": SERVICE_NAME, "dns": answer}),
        ))
    }

    async fn steady(&mut self) -> Told {
        let load = Load::start(
            self.east.addresses.socks,
            SERVICE_NAME.to_owned(),
            SERVICE_PORT,
            self.args.rate,
        );
        self.load = Some(load);
        // The first requests warm what is lazy; the watch begins when they have shown the way to be open.
        self.settled("west").await?;
        let window = self.watch(WATCH).await?;
        Ok(judge::steady(&self.records()?, window, self.args.rate, "west"))
    }

    async fn west_killed(&mut self) -> Told {
        let from = self.running()?.now();
        self.west.kill();
        let to = from + WATCH_KILL;
        self.running()?.settle(to).await;
        Ok(judge::killed(
            &self.records()?,
            Window { from, to },
            self.args.rate,
            "west",
            "north",
        ))
    }

    async fn west_returned(&mut self) -> Told {
        let from = self.running()?.now();
        self.west
            .start(true)
            .map_err(|e| format!("west does not start: {e}"))?;
        ask::ready(&mut self.west).await?;
        self.moved_to("west", from, "west is back").await
    }

    async fn root_rotated(&mut self) -> Told {
        let from = self.running()?.now();
        let start = Instant::now();
        let before = ask::rotation(&self.west, RotateAction::Status).await?;
        ask::rotation(&self.west, RotateAction::Start).await?;
        let west = &self.west;
        let after = wait("west's root rotation to complete", async || {
            let now = ask::rotation(west, RotateAction::Status).await?;
            Ok((now.current != before.current && now.phase == "Stable").then_some(now))
        })
        .await?;
        let took = start.elapsed();
        wait("east and west to stay connected", async || {
            Ok(ask::federation(&self.east, "west").await?.filter(ask::is_up))
        })
        .await?;
        self.settled("west").await?;
        let to = self.running()?.now();
        self.running()?.settle(to).await;
        let what = format!(
            "west's root replaced in {} ms (bundle sequence {} to {}), every peer acknowledged",
            took.as_millis(),
            before.sequence,
            after.sequence
        );
        Ok(judge::undisturbed(
            &self.records()?,
            Window { from, to },
            self.args.rate,
            &what,
        ))
    }

    async fn edited_live(&mut self) -> Told {
        let from = self.running()?.now();
        let prefer = |story: &Self, west: u16, north: u16| {
            ask::set(&story.east, "west", "imports", &manifests::imports(west))?;
            ask::set(&story.east, "north", "imports", &manifests::imports(north))
        };
        prefer(self, 2, 1)?;
        let there = self
            .moved_to("north", from, "east's manifests edited to prefer north")
            .await?;
        if !there.ok {
            return Ok(there);
        }
        let from = self.running()?.now();
        prefer(self, 1, 2)?;
        let back = self.moved_to("west", from, "edited back").await?;
        let figures = json!({"there": there.figures, "back": back.figures});
        Ok(Verdict::new(
            back.ok,
            format!("{}; {}", there.text, back.text),
            figures,
        ))
    }

    async fn west_unexported(&mut self) -> Told {
        let from = self.running()?.now();
        manifests::remove_export(&self.west)
            .map_err(|e| format!("cannot remove west's ServiceExport: {e}"))?;
        self.moved_to("north", from, "west took its ServiceExport back")
            .await
    }

    async fn refused(&mut self) -> Told {
        ask::set(&self.north, "east", "exports", manifests::NOTHING)?;
        wait("east to withdraw the import", async || {
            let status = self.east.status().await?;
            Ok(status
                .controller
                .imports
                .imports
                .iter()
                .all(|i| i.service.to_string() != SERVICE)
                .then_some(()))
        })
        .await?;
        // The control plane has withdrawn it; the data plane follows within one hand-over.
        sleep(POLL * 2).await;
        let window = self.watch(Duration::from_secs(1)).await?;
        let explained = "north's Federation no longer exports it and east's imports no longer list it";
        Ok(judge::refused(
            &self.records()?,
            window,
            self.args.rate,
            explained,
        ))
    }

    async fn exported_again(&mut self) -> Told {
        let from = self.running()?.now();
        manifests::write_export(&self.west).map_err(|e| format!("cannot write west's ServiceExport: {e}"))?;
        ask::set(&self.north, "east", "exports", manifests::EXPORTS)?;
        let settled = self.settled("west").await?;
        let window = Window { from, to: settled.to };
        let mut verdict = judge::back(&self.records()?, window, settled, self.args.rate, "west");
        verdict.text = format!("west and north export it again: {}", verdict.text);
        Ok(verdict)
    }

    async fn nothing_twice(&mut self) -> Told {
        let now = self.running()?.now();
        self.running()?.settle(now).await;
        // Read the answers first: a request that ends meanwhile is then in the greeters' record for sure.
        let records = self.records()?;
        let seen = [&self.west, &self.north].map(|c| fs::read_to_string(c.seen()).unwrap_or_default());
        Ok(judge::once(&records, &seen))
    }

    /// Waits until only `cluster` answers, and judges the whole way there.
    async fn moved_to(&mut self, cluster: &str, from: Duration, what: &str) -> Told {
        let settled = self.settled(cluster).await.ok();
        let to = settled.map_or_else(|| self.load.as_ref().map(Load::now).unwrap_or(from), |w| w.to);
        self.running()?.settle(to).await;
        let mut verdict = judge::moved(
            &self.records()?,
            Window { from, to },
            settled,
            self.args.rate,
            cluster,
        );
        verdict.text = format!("{what}: {}", verdict.text);
        if !verdict.ok {
            self.all_alive()?;
        }
        Ok(verdict)
    }

    /// Waits for a stretch in which only `cluster` answers.
    async fn settled(&self, cluster: &str) -> Result<Window, String> {
        let load = self.running()?;
        let rate = self.args.rate;
        wait(
            &format!("{cluster} to answer every request for {} ms", SETTLED.as_millis()),
            async || {
                let to = load.now();
                let from = to.saturating_sub(SETTLED);
                load.settle(to).await;
                let records = load.records();
                let enough = (f64::from(rate) * SETTLED.as_secs_f64() / 2.0) as u64;
                let settled = record::all_from(&records, from, to, cluster, enough.max(1));
                Ok(settled.then_some(Window { from, to }))
            },
        )
        .await
    }

    /// Watches traffic for a while.
    async fn watch(&mut self, time: Duration) -> Result<Window, String> {
        let from = self.running()?.now();
        let to = from + time;
        self.running()?.settle(to).await;
        self.all_alive()?;
        Ok(Window { from, to })
    }

    fn all_alive(&mut self) -> Result<(), String> {
        self.clusters().into_iter().try_for_each(Cluster::alive)
    }

    fn running(&self) -> Result<&Load, String> {
        self.load
            .as_ref()
            .ok_or_else(|| "the load does not run".to_owned())
    }

    fn records(&self) -> Result<Vec<record::Record>, String> {
        self.running().map(Load::records)
    }

    /// Waits until east imports the service from exactly these peers, each with something ready.
    async fn import_from(&self, peers: &[&str]) -> Result<ImportView, String> {
        wait(
            &format!("east to import {SERVICE} from {}", peers.join(" and ")),
            async || {
                let imports = self.east.status().await?.controller.imports.imports;
                let import = imports.into_iter().find(|i| i.service.to_string() == SERVICE);
                Ok(import.filter(|i| ask::served_by(i) == peers))
            },
        )
        .await
    }
}
