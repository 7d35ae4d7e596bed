"""NBD exports as devices, through libnbd's C library (libnbd(3)).

- nbd_uri.py: NBD URIs, and the options in them (pure)
- libnbd.py: the functions of the C library, by ctypes
- nbd_connection.py: one connection, on which each request has a deadline
- connection_pool.py: the connections of one device, and what losing one of them means
- request_lanes.py: the requests of many calls on a few connections
- export_calls.py: calls over these connections, and what their failures mean
- zero_extents.py: what needn't be read, because the server says that it is zeros
- nbd_device.py: the BlockDevice
"""
