"""What the HTTP servers of mirrorlog share: who may ask, and how much.

access.py              who may ask: a token, certificates, or whoever is on this machine
foreign_requests.py    requests that a page of another site is behind
answer_headers.py      the headers of every answer
guard.py               the checks of each request, and the headers of each answer
login.py               a token in a cookie, for browsers
connections.py         how many connections there may be, and for how long without a request
alerting_context.py    what a server speaks TLS with
tls_handshakes.py      connections that speak TLS
tls_refusals.py        why a request over TLS failed, for clients
request_parameters.py  the parameters of a request, checked
responses.py           JSON objects and metrics as answers
listings.py            listings as answers, sent in chunks
error_responses.py     errors as JSON objects, and the status of each
http_server.py         accepts connections for an application until it is stopped
redirects.py           redirects, for clients

The first three and alerting_context need no aiohttp: the small server of metrics
(adapters/metrics_server.py) uses them. A server on aiohttp is put together from an HttpAccess, a
socket of `adapters.listening.listen_at`, the application of an HttpGuard, and an HttpServer.
"""
