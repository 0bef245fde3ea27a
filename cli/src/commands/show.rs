//! `get`, `status`, `bundle`: commands that only look.
//!
//! Owns which part of the status each shows. Never changes anything. Called by dispatch.

use strait_federation_api::{
    observation::{GatewayStatus, TunnelStatus},
    view::ImportsView,
};

use super::{ask, emit, unexpected, unix_now};
use crate::{
    args::{BundleArgs, GetArgs, OutputFormat, Resource, ShowArgs},
    exit::{CliError, Exit},
    local::{Reply, Request, StatusReply},
    output::{self, Table, show},
};

/// `strait get`.
pub(super) async fn get(args: GetArgs) -> Result<Exit, CliError> {
    let StatusReply {
        controller, gateway, ..
    } = status_of(&args.show).await?;
    let (format, name) = (args.show.output, args.name.as_deref());
    let matches = |found: &str| name.is_none_or(|wanted| wanted == found);
    let text = match args.what {
        Resource::Federations => {
            let mut views = controller.federations;
            views.retain(|f| matches(&f.name) || f.cluster.as_ref().is_some_and(|c| matches(c.as_str())));
            found(name, views.is_empty(), "federation")?;
            show(&views, format, |v: &Vec<_>, wide| {
                table(&output::federations(v, unix_now()), wide, "No federation.\n")
            })
        }
        Resource::Exports => {
            let mut views = controller.exports;
            views.retain(|e| matches(&e.service.to_string()));
            found(name, views.is_empty(), "export")?;
            show(&views, format, |v: &Vec<_>, wide| {
                table(&output::exports(v), wide, "No service is exported.\n")
            })
        }
        Resource::Imports => {
            let ImportsView {
                mut imports,
                mut offers,
            } = controller.imports;
            imports.retain(|i| matches(&i.service.to_string()));
            offers.retain(|o| matches(&o.service.to_string()));
            found(name, imports.is_empty() && offers.is_empty(), "import or offer")?;
            show(&ImportsView { imports, offers }, format, output::imports)
        }
        Resource::Gateways => {
            let instance = gateway
                .instance
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default();
            found(name, !matches(&instance), "gateway")?;
            show(&gateway, format, output::gateways)
        }
        Resource::Tunnels => tunnels(gateway, name, format),
    };
    emit(&text?)
}

fn tunnels(mut gateway: GatewayStatus, name: Option<&str>, format: OutputFormat) -> Result<String, CliError> {
    gateway
        .tunnels
        .retain(|t| name.is_none_or(|n| n == t.id.to_string() || n == t.peer.as_str()));
    found(name, gateway.tunnels.is_empty(), "tunnel")?;
    // Programs asked for tunnels, not for the whole gateway.
    let people = |_: &Vec<TunnelStatus>, wide| table(&output::tunnels(&gateway), wide, "No tunnel.\n");
    show(&gateway.tunnels.clone(), format, people)
}

/// `strait status`: exit 1 when something is not well.
pub(super) async fn status(args: ShowArgs) -> Result<Exit, CliError> {
    let status = status_of(&args).await?;
    let (_, well) = output::status_page(&status, unix_now(), false);
    emit(&show(&status, args.output, |s, wide| {
        output::status_page(s, unix_now(), wide).0
    })?)?;
    Ok(if well { Exit::Ok } else { Exit::Failed })
}

/// `strait bundle`.
pub(super) async fn bundle(args: BundleArgs) -> Result<Exit, CliError> {
    let bundle = match ask(&args.state, Request::Bundle).await? {
        Reply::Bundle(bundle) => bundle,
        other => return Err(unexpected(&other)),
    };
    if args.raw {
        return emit(&(bundle.spiffe + "\n"));
    }
    emit(&format!(
        "trust domain  {}\nsequence      {}\n\n{}\n\nFor static trust: save the document with `strait bundle --raw > FILE` on the other side and name it \
         in spec.trust.static.bundleFile, with this trust domain.\n",
        bundle.trust_domain, bundle.sequence, bundle.spiffe
    ))
}

async fn status_of(args: &ShowArgs) -> Result<StatusReply, CliError> {
    match ask(&args.state, Request::Status).await? {
        Reply::Status(status) => Ok(*status),
        other => Err(unexpected(&other)),
    }
}

/// An object that was named must exist.
fn found(name: Option<&str>, nothing: bool, what: &str) -> Result<(), CliError> {
    match name {
        Some(name) if nothing => Err(CliError::failed(format!("no {what} {name:?}"))),
        _ => Ok(()),
    }
}

fn table(table: &Table, wide: bool, nothing: &str) -> String {
    if table.is_empty() {
        nothing.to_owned()
    } else {
        table.render(wide)
    }
}
