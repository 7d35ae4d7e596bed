"""Which blocks of a volume changed, over HTTP, answered from the node's own table (docs/http.md).

listen.py               binds the socket, and names the worker in its group after the address
server.py               routes
request_parameters.py   the questions that requests ask, out of their parameters
handlers.py             what each route does: answer here, or pass the request on
partition_ownership.py  which partitions this worker may answer for
forward.py              passes a request on to the worker that has the partition
query_threads.py        threads for questions, which rest so that the node's work goes on
client_pool.py          Kafka clients for questions
table_logs.py           the log of one volume, read from the table
page_cache.py           results that are kept for their next page
responses.py            JSON objects and streamed listings
openapi.py, docs.html   the description of all of this, for programs and for people

Who may ask, how much, and how errors are answered: mirrorlog/adapters/http/.
"""
