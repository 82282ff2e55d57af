//! What the operator sees of all accounts: the answers of the engines of all shards, wherever they are, made into one.
//! An answer says which shards are in it, because one whose owner is just changing is left out rather than waited for
//! without end.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::JoinSet;
use tokio::time::Instant;
use wabahook::Fleet;
use wabahook::metrics::CONTENT_TYPE;

use super::front::{Front, KeptRequest, no_owner};
use super::host_pages::{HostCursors, HostPage, merged};
use super::mark::ForwardTarget;
use super::merge::{added, exposition, keep_worst, with_shards};
use super::pages::{ListPlace, PageQuery};
use super::peers::ForwardFailure;
use super::route_scope::purged_account;
use crate::http_error::{HttpError, RouteResult};
use crate::json::{IncludedShardsJson, JsonPage};
use crate::response::json;
use crate::routes::LineBody;

/// The longest answer of one engine that is made part of another.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long an engine here may take after the deadline, while the server is away.
const FROM_MEMORY_WAIT: Duration = Duration::from_millis(200);
/// How many lines of a stream may wait for a slow listener.
const LINES_MAX: usize = 16;

/// An answer that was read whole.
struct WholeAnswer {
    parts: axum::http::response::Parts,
    bytes: Bytes,
}

impl WholeAnswer {
    async fn read(response: Response) -> Result<WholeAnswer, HttpError> {
        let (parts, body) = response.into_parts();
        let broken = |_| {
            let message = "the host of a shard went away while it answered";
            HttpError::new(StatusCode::SERVICE_UNAVAILABLE, "unknown", message)
        };
        let bytes = axum::body::to_bytes(body, ANSWER_BYTES_MAX).await.map_err(broken)?;
        Ok(WholeAnswer { parts, bytes })
    }

    fn value(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_default()
    }

    fn page(&self) -> JsonPage<Value> {
        serde_json::from_slice(&self.bytes).unwrap_or_default()
    }

    fn into_response(self) -> Response {
        Response::from_parts(self.parts, Body::from(self.bytes))
    }
}

impl Front {
    /// The accounts, each as the engine has it that serves it.
    pub(super) async fn every_account(self: &Arc<Self>, request: KeptRequest) -> RouteResult {
        let is_of = |shard: u16, item: &Value| {
            let id = item.get("id").and_then(Value::as_str).unwrap_or_default();
            self.fleet.shard_of(id) == shard
        };
        self.list(&request, is_of).await
    }

    /// Sends a request to all hosts, and adds their answers.
    pub(super) async fn sum_of_hosts(&self, request: KeptRequest) -> RouteResult {
        let (mut sum, mut missing) = (Value::Null, Vec::new());
        for host in self.fleet.hosts() {
            match self.by_host(&host, &request).await {
                Ok(answer) if answer.parts.status.is_success() => sum = added(sum, answer.value()),
                Ok(answer) => return Ok(answer.into_response()),
                Err(_) => missing.push(host.name),
            }
        }
        if let Value::Object(members) = &mut sum {
            members.insert("missing_hosts".to_owned(), missing.into());
        }
        Ok(json(StatusCode::OK, &sum))
    }

    /// A page of the lists that all hosts keep, the newest items first. A host that does not answer keeps its place in
    /// the cursor while another one has more.
    pub(super) async fn list_of_hosts(&self, mut request: KeptRequest) -> RouteResult {
        let query = PageQuery::read(&request.parts.uri)?;
        let hosts = self.fleet.hosts();
        let all =
            || HostCursors(hosts.iter().map(|host| (host.name.clone(), String::new())).collect());
        let cursors = query.place(all, HostCursors::read)?;
        let mut pages = Vec::new();
        for (host, from) in cursors.0 {
            request.parts.uri = query.uri(query.limit, &from);
            let answer = match hosts.iter().find(|live| live.name == host) {
                Some(live) => self.by_host(live, &request).await.ok(),
                None => None,
            };
            let page = match answer {
                Some(answer) if answer.parts.status.is_success() => Some(answer.page()),
                Some(refused) => return Ok(refused.into_response()),
                None => None,
            };
            let is_missing = page.is_none();
            let JsonPage { items, cursor } = page.unwrap_or_default();
            pages.push(HostPage { host, from, items: items.into(), cursor, is_missing });
        }
        let missing = pages.iter().filter(|page| page.is_missing);
        let missing: Vec<String> = missing.map(|page| page.host.clone()).collect();
        let (items, next) = merged(pages, query.limit);
        let page = json!({"items": items, "cursor": next.text(), "missing_hosts": missing});
        Ok(json(StatusCode::OK, &page))
    }

    async fn by_host(
        &self,
        host: &wabahook::FleetHost,
        request: &KeptRequest,
    ) -> Result<WholeAnswer, ForwardFailure> {
        let response = if host.name == self.fleet.name() {
            self.of_this_host(request.request()).await.ok_or(ForwardFailure::NotSent)?
        } else {
            let name = host.name.clone();
            let is_live = move |fleet: &Fleet| fleet.hosts().iter().any(|live| live.name == name);
            let given_up = self.given_up(request.deadline, is_live);
            self.forward(&host.address, ForwardTarget::Host, request, given_up).await?
        };
        WholeAnswer::read(response).await.map_err(|_| ForwardFailure::Unknown)
    }

    async fn ask(&self, shard: u16, request: &KeptRequest) -> Result<WholeAnswer, HttpError> {
        let answer = async { WholeAnswer::read(self.deliver(shard, request).await?).await };
        // An engine here may wait for the server, too. What it has in memory it tells also after the deadline.
        let deadline = request.deadline.max(Instant::now() + FROM_MEMORY_WAIT);
        tokio::select! {
            answer = answer => answer,
            () = self.given_up(deadline, |_| true) => Err(no_owner()),
        }
    }

    /// Asks every shard at the same time. The answers are in the order of the shards; a shard without an owner has none.
    async fn ask_all(self: &Arc<Self>, request: &KeptRequest) -> Vec<(u16, Option<WholeAnswer>)> {
        let mut asked = JoinSet::new();
        for shard in 0..self.fleet.shards() {
            let (front, request) = (Arc::clone(self), request.clone());
            asked.spawn(async move { (shard, front.ask(shard, &request).await.ok()) });
        }
        let mut answers = asked.join_all().await;
        answers.sort_unstable_by_key(|(shard, _)| *shard);
        answers
    }

    /// The sums of what all shards answer.
    pub(super) async fn sum(self: &Arc<Self>, request: &KeptRequest) -> RouteResult {
        // A query that is refused must be refused before any shard has done something.
        let query = PageQuery::read(&request.parts.uri)?;
        let (mut sum, mut included, mut missing) = (Value::Null, Vec::new(), Vec::new());
        let (mut status, mut unknown) = (StatusCode::OK, None);
        for (shard, answer) in self.ask_all(request).await {
            match answer {
                Some(answer) if answer.parts.status.is_success() => {
                    (sum, status) = (added(sum, answer.value()), answer.parts.status);
                    included.push(shard);
                }
                // What the request names is in another shard, or in none.
                Some(answer) if answer.parts.status == StatusCode::NOT_FOUND => {
                    unknown = Some(answer);
                    included.push(shard);
                }
                Some(answer) => return Ok(answer.into_response()),
                None => missing.push(shard),
            }
        }
        match unknown {
            Some(answer) if sum.is_null() && missing.is_empty() => {
                return Ok(answer.into_response());
            }
            Some(_) if sum.is_null() => return Err(no_owner()),
            _ => {}
        }
        if let Some(worst) = query.other("worst").and_then(|worst| worst.parse().ok()) {
            keep_worst(&mut sum, worst);
        }
        with_shards(&mut sum, &IncludedShardsJson { included, missing });
        Ok(json(status, &sum))
    }

    /// A purge, of one account or of all.
    pub(super) async fn purge(self: &Arc<Self>, request: &KeptRequest) -> RouteResult {
        let accounts = self.fleet.accounts();
        let named = || purged_account(&request.body, accounts);
        if named().is_some_and(|account| accounts.get(&account).is_none()) {
            self.refresh.recent(request.deadline).await?;
        }
        match named() {
            Some(account) => {
                let shard = self.fleet.shard_of(&account);
                self.deliver(shard, request).await
            }
            None => self.sum(request).await,
        }
    }

    /// The answer of the first shard that has what is asked for.
    pub(super) async fn first(self: &Arc<Self>, request: &KeptRequest) -> RouteResult {
        let answers = self.ask_all(request).await;
        let is_complete = answers.iter().all(|(_, answer)| answer.is_some());
        let (found, others): (Vec<_>, Vec<_>) = answers
            .into_iter()
            .filter_map(|(_, answer)| answer)
            .partition(|answer| answer.parts.status != StatusCode::NOT_FOUND);
        match (found.into_iter().next(), others.into_iter().next()) {
            (Some(found), _) => Ok(found.into_response()),
            (None, Some(other)) if is_complete => Ok(other.into_response()),
            _ => Err(no_owner()),
        }
    }

    /// A page of the lists of all shards, one after the other.
    pub(super) async fn list(
        self: &Arc<Self>,
        request: &KeptRequest,
        is_wanted: impl Fn(u16, &Value) -> bool,
    ) -> RouteResult {
        let query = PageQuery::read(&request.parts.uri)?;
        let (mut items, mut next) =
            (Vec::new(), Some(query.place(ListPlace::first, ListPlace::read)?));
        let (mut included, mut missing, mut has_total) = (Vec::new(), Vec::new(), false);
        while items.len() < query.limit {
            let Some(place) = next.take() else { break };
            let Some(shard) =
                u16::try_from(place.index).ok().filter(|one| *one < self.fleet.shards())
            else {
                break;
            };
            let mut request = request.clone();
            request.parts.uri = query.uri(query.limit - items.len(), &place.cursor);
            let mut after = None;
            match self.ask(shard, &request).await {
                Ok(answer) if answer.parts.status == StatusCode::OK => {
                    let mut page = answer.value();
                    if let Some(Value::Array(all)) = page.get_mut("items") {
                        all.retain(|item| is_wanted(shard, item));
                        items.append(all);
                    }
                    has_total |= page.get("total").is_some();
                    after = page.get("cursor").and_then(Value::as_str).map(str::to_owned);
                    included.push(shard);
                }
                Ok(answer) => return Ok(answer.into_response()),
                Err(_) => missing.push(shard),
            }
            next = Some(match after {
                Some(cursor) => ListPlace { cursor, ..place },
                None => ListPlace { index: place.index + 1, cursor: String::new() },
            });
            next = next.filter(|place| place.index < usize::from(self.fleet.shards()));
        }
        included.dedup();
        let mut page = json!({"items": items, "cursor": next.map(|place| place.text())});
        if let (true, Value::Object(members)) = (has_total, &mut page) {
            members.insert("total".to_owned(), self.total(request, &query).await.into());
        }
        with_shards(&mut page, &IncludedShardsJson { included, missing });
        Ok(json(StatusCode::OK, &page))
    }

    /// How many items match, in all shards.
    async fn total(self: &Arc<Self>, request: &KeptRequest, query: &PageQuery) -> u64 {
        let mut request = request.clone();
        request.parts.uri = query.uri(1, "");
        let answers = self.ask_all(&request).await.into_iter().filter_map(|(_, answer)| answer);
        answers.filter_map(|answer| answer.value().get("total").and_then(Value::as_u64)).sum()
    }

    /// The notices of all shards as they come. A shard that moves is followed.
    pub(super) fn stream(self: &Arc<Self>, request: &KeptRequest) -> Response {
        let (sender, lines) = channel(LINES_MAX);
        for shard in 0..self.fleet.shards() {
            let (front, request, sender) = (Arc::clone(self), request.clone(), sender.clone());
            tokio::spawn(async move {
                while !sender.is_closed() && front.routes.shared.is_serving() {
                    let request = request.again();
                    match front.deliver(shard, &request).await {
                        Ok(response) if response.status().is_success() => {
                            pump(response, &sender).await;
                        }
                        Ok(_) => return,
                        Err(_) => {}
                    }
                    let _ = front.wait(request.deadline).await;
                }
            });
        }
        let headers =
            [(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")];
        (headers, Body::new(LineBody(lines))).into_response()
    }

    /// `GET /metrics` for the operator: the shards of this host, because each host is scraped.
    pub(super) async fn metrics(&self, parts: Parts) -> RouteResult {
        let request = self.kept(parts, Body::empty()).await?;
        let mut texts = Vec::new();
        for shard in self.routes.open() {
            let Some(permit) = self.routes.enter(shard) else { continue };
            let answer = WholeAnswer::read(permit.answer(request.request()).await).await?;
            if !answer.parts.status.is_success() {
                return Ok(answer.into_response());
            }
            texts.push((shard, String::from_utf8_lossy(&answer.bytes).into_owned()));
        }
        Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], exposition(&texts)).into_response())
    }

    /// A change of an account, made by the engine that owns the accounts. It is in force on this host when this returns.
    pub(super) async fn to_directory(&self, parts: Parts, body: Body) -> RouteResult {
        let response = self.to_shard(self.fleet.directory_shard(), parts, body, None).await?;
        if response.status().is_success() {
            self.put_in_force().await;
        }
        Ok(response)
    }

    /// The end of an account: of what its own engine has, and then of the account itself.
    pub(super) async fn to_account_and_directory(
        &self,
        id: &str,
        parts: Parts,
        body: Body,
    ) -> RouteResult {
        let (shard, directory) = (self.fleet.shard_of(id), self.fleet.directory_shard());
        let request = self.kept(parts, body).await?;
        let first = self.deliver(shard, &request).await?;
        if shard == directory || !first.status().is_success() {
            return Ok(first);
        }
        let second = self.deliver(directory, &request).await?;
        if !second.status().is_success() {
            return Ok(second);
        }
        self.put_in_force().await;
        Ok(first)
    }
}

/// Copies a stream until either side ends.
async fn pump(response: Response, to: &Sender<Bytes>) {
    let mut body = std::pin::pin!(response.into_body());
    loop {
        let frame = std::future::poll_fn(|context| body.as_mut().poll_frame(context));
        let piece = tokio::select! {
            frame = frame => match frame {
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                Some(Err(_)) | None => return,
            },
            () = to.closed() => return,
        };
        if to.send(piece).await.is_err() {
            return;
        }
    }
}
