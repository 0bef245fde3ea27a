//! Making quinn endpoints.
//!
//! Owns how socket, runtime and endpoint fit together. Called by a worker on its own runtime, and by redials that need a fresh port.

use std::{io, net::UdpSocket, sync::Arc};

use quinn::{Endpoint, EndpointConfig, ServerConfig};

use crate::{
    counters::Counters,
    runtime::{Health, WorkerRuntime},
    steer::Steering,
    udp::WorkerSocket,
};

/// An endpoint with what its worker needs to know of it.
#[derive(Debug, Clone)]
pub(crate) struct Port {
    pub(crate) endpoint: Endpoint,
    pub(crate) socket: Arc<WorkerSocket>,
    /// Breaks when the endpoint's driver ends.
    pub(crate) ended: Arc<Health>,
}

/// Everything an endpoint is made from but its socket.
#[derive(Clone)]
pub(crate) struct PortConfig {
    pub(crate) endpoint: EndpointConfig,
    pub(crate) coalesce: bool,
    pub(crate) counters: Arc<Counters>,
}

impl PortConfig {
    /// Must be called on the runtime that shall drive the endpoint.
    pub(crate) fn open(
        &self,
        socket: UdpSocket,
        server: Option<ServerConfig>,
        steering: Option<(usize, Arc<Steering>)>,
    ) -> io::Result<Port> {
        let socket = WorkerSocket::new(socket, steering)?;
        let (runtime, ended) =
            WorkerRuntime::new(Arc::clone(&socket), self.coalesce, Arc::clone(&self.counters));
        let endpoint = Endpoint::new_with_abstract_socket(
            self.endpoint.clone(),
            server,
            Arc::clone(&socket) as _,
            runtime,
        )?;
        Ok(Port {
            endpoint,
            socket,
            ended,
        })
    }
}
