"""Confluent's wire format with a schema registry (docs/schema-registry.md).

registry_client.py  asks a registry for ids and schemas
wire_format.py      events in Confluent's wire format, to and from the plain one
"""
