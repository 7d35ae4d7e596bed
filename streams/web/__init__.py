"""The node's HTTP: which blocks changed, answered from the node's own table (docs/http.md)."""
