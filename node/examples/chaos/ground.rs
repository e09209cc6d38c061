//! What the nodes stand on: one network for all, or, with root, a network namespace for each on one of two bridges.
//!
//! ```text
//! node 1 ── veth ─┐                       node 3 ── veth ─┐
//! node 2 ── veth ─┴─ bridge "together"    node 4 ── veth ─┴─ bridge "apart"
//! ```
//! A partition moves cables from one bridge to the other. Nothing else tells the nodes of it.

use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The networks of the nodes.
pub(crate) struct Ground {
    /// Names begin with this; none where all stand on one network.
    mark: Option<String>,
    nodes: u32,
    port: u16,
}

impl Ground {
    /// A namespace for each node if this process may make them.
    pub(crate) fn prepare(nodes: u32) -> Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let mut ground = Self {
            mark: Some(format!("cv{}", std::process::id() % 100_000)),
            nodes,
            port,
        };
        if ground.build().is_err() {
            ground.tear_down();
            ground.mark = None;
        }
        Ok(ground)
    }

    /// Whether nodes can be cut off.
    pub(crate) fn has_networks(&self) -> bool {
        self.mark.is_some()
    }

    /// Where a node listens; with one network only the first has a port that is known beforehand.
    pub(crate) fn address(&self, node: usize) -> String {
        match (&self.mark, node) {
            (Some(_), _) => format!("/ip4/{}/tcp/4001", ip(node)),
            (None, 0) => format!("/ip4/127.0.0.1/tcp/{}", self.port),
            (None, _) => "/ip4/127.0.0.1/tcp/0".to_owned(),
        }
    }

    /// A command that runs where a node stands.
    pub(crate) fn command(&self, node: usize, program: &std::path::Path) -> Command {
        match &self.mark {
            Some(mark) => {
                let mut command = Command::new("ip");
                command
                    .args(["netns", "exec", &format!("{mark}n{node}")])
                    .arg(program);
                command
            }
            None => Command::new(program),
        }
    }

    /// Cuts a node off from all that are not cut off, or brings it back.
    pub(crate) fn cut(&self, node: usize, off: bool) -> Result<()> {
        let mark = self.mark.as_ref().context("there is one network alone")?;
        let bridge = if off { "b" } else { "a" };
        ip_tool(&[
            "link",
            "set",
            &format!("{mark}v{node}"),
            "master",
            &format!("{mark}{bridge}"),
        ])
    }

    fn build(&self) -> Result<()> {
        let mark = self.mark.as_deref().unwrap_or_default();
        for bridge in ["a", "b"] {
            let name = format!("{mark}{bridge}");
            ip_tool(&["link", "add", &name, "type", "bridge"])?;
            ip_tool(&["link", "set", &name, "up"])?;
        }
        for node in 0..self.nodes as usize {
            let (space, outer) = (format!("{mark}n{node}"), format!("{mark}v{node}"));
            ip_tool(&["netns", "add", &space])?;
            ip_tool(&[
                "link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &space,
            ])?;
            ip_tool(&["link", "set", &outer, "master", &format!("{mark}a"), "up"])?;
            let address = format!("{}/16", ip(node));
            ip_tool(&["-n", &space, "addr", "add", &address, "dev", "eth0"])?;
            ip_tool(&["-n", &space, "link", "set", "eth0", "up"])?;
            ip_tool(&["-n", &space, "link", "set", "lo", "up"])?;
        }
        Ok(())
    }

    fn tear_down(&self) {
        let Some(mark) = &self.mark else { return };
        for node in 0..self.nodes {
            ip_tool(&["netns", "del", &format!("{mark}n{node}")]).ok();
        }
        for bridge in ["a", "b"] {
            ip_tool(&["link", "del", &format!("{mark}{bridge}")]).ok();
        }
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.tear_down();
    }
}

/// The address of a node in its network.
fn ip(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 177, 0, u8::try_from(node + 1).unwrap_or(u8::MAX))
}

fn ip_tool(arguments: &[&str]) -> Result<()> {
    let done = Command::new("ip").args(arguments).output()?;
    let words = arguments.join(" ");
    ensure!(
        done.status.success(),
        "ip {words}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(())
}
