"""The document API over a store: what a storage node and a stateless document service both run."""

from functools import partial

from cluster.settings import ClusterSettings
from docservice.documents import DocumentService
from docservice.http.metrics import RequestMetrics
from docservice.http.server import DataListener, start_data_listener
from docservice.notedstore import NotedStore, Noting
from docservice.store import DocumentStore
from kvnode.log import Log
from kvnode.ports import Clock, Entropy
from kvnode.tracing import OpenSpan, Tracer


async def serve_documents(
    store: DocumentStore,
    noting: Noting,
    settings: ClusterSettings,
    *,
    host: str,
    port: int,
    region: str,
    secret: bytes,
    tracer: Tracer,
    metrics: RequestMetrics,
    clock: Clock,
    entropy: Entropy,
    log: Log,
) -> DataListener:
    """Serve the documents of a store as the cluster's settings say.

    ``noting`` is the store on behalf of one call's span.

    Raises:
        OSError: the address can't be bound.
    """
    documents = partial(
        DocumentService,
        clock=clock,
        entropy=entropy,
        cluster_id=bytes.fromhex(settings.cluster_id),
        region=region,
        replication=settings.replication,
        lifecycle=settings.lifecycle,
    )

    def traced(span: OpenSpan) -> DocumentService:
        return documents(NotedStore(noting, span))

    return await start_data_listener(
        documents(store),
        traced,
        host=host,
        port=port,
        region=region,
        secret=secret,
        http=settings.http,
        log_settings=settings.log,
        tracer=tracer,
        metrics=metrics,
        log=log,
        clock=clock,
        entropy=entropy,
    )
