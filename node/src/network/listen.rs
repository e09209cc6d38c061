//! Addresses: where to listen, and which are worth calling.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::Swarm;

use super::NetworkError;
use super::behaviour::Behaviour;

/// Listens at an address. A port that another program holds is refused by name: libp2p binds with port reuse and
/// would share it silently.
pub(super) fn listen(
    swarm: &mut Swarm<Behaviour>,
    address: &Multiaddr,
) -> Result<(), NetworkError> {
    let failed = |error: &dyn std::error::Error| {
        let detail = error.to_string();
        let address = address.clone();
        if detail.to_lowercase().contains("in use") {
            NetworkError::InUse { address }
        } else {
            NetworkError::Listen { address, detail }
        }
    };
    let mut parts = address.iter();
    let ip = match parts.next() {
        Some(Protocol::Ip4(ip)) => Some(IpAddr::from(ip)),
        Some(Protocol::Ip6(ip)) => Some(IpAddr::from(ip)),
        _ => None,
    };
    match (ip, parts.next()) {
        (Some(ip), Some(Protocol::Tcp(port))) if port != 0 => {
            TcpListener::bind(SocketAddr::new(ip, port)).map_err(|e| failed(&e))?;
        }
        (Some(ip), Some(Protocol::Udp(port))) if port != 0 => {
            UdpSocket::bind(SocketAddr::new(ip, port)).map_err(|e| failed(&e))?;
        }
        _ => {}
    }
    swarm.listen_on(address.clone()).map_err(|e| failed(&e))?;
    Ok(())
}

/// Whether an address that a peer told can be dialled at all.
pub(super) fn useful(address: &Multiaddr) -> bool {
    address.iter().next().is_some_and(|part| match part {
        Protocol::Ip4(ip) => !ip.is_unspecified(),
        Protocol::Ip6(ip) => !ip.is_unspecified(),
        Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) => true,
        _ => false,
    })
}
