"""The document API over a store: what a storage node and a stateless document service both run."""

from cluster.settings import ClusterSettings
from docservice.documents import DocumentService
from docservice.http.metrics import RequestMetrics
from docservice.http.server import DataListener, start_data_listener
from docservice.store import DocumentStore
from kvnode.log import Log
from kvnode.ports import Clock, Entropy


async def serve_documents(
    store: DocumentStore,
    settings: ClusterSettings,
    *,
    host: str,
    port: int,
    region: str,
    secret: bytes,
    metrics: RequestMetrics,
    clock: Clock,
    entropy: Entropy,
    log: Log,
) -> DataListener:
    """Serve the documents of a store as the cluster's settings say.

    Raises:
        OSError: the address can't be bound.
    """
    documents = DocumentService(
        store,
        clock=clock,
        entropy=entropy,
        cluster_id=bytes.fromhex(settings.cluster_id),
        region=region,
        replication=settings.replication,
        lifecycle=settings.lifecycle,
    )
    return await start_data_listener(
        documents,
        host=host,
        port=port,
        region=region,
        secret=secret,
        http=settings.http,
        metrics=metrics,
        log=log,
        clock=clock,
        entropy=entropy,
    )
