"""The document API: stateless, over any store of records."""
