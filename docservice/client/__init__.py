"""The Python client of the document API. It needs aiohttp and msgspec, and nothing of a node."""

from docservice.client.aio import AsyncClient, Options
from docservice.client.errors import NoAnswer, NotStele, ProblemError, SteleError
from docservice.client.model import CreatedDocument, Document, How, NewDocument
from docservice.client.retrying import Retrying
from docservice.client.session import Session
from docservice.client.sync import Client

__all__ = [
    "AsyncClient",
    "Client",
    "CreatedDocument",
    "Document",
    "How",
    "NewDocument",
    "NoAnswer",
    "NotStele",
    "Options",
    "ProblemError",
    "Retrying",
    "Session",
    "SteleError",
]
