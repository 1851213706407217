"""llama.cpp's server as the package xllamacpp carries it, in the place of llama-server."""

import argparse
import signal

import xllamacpp

options = argparse.ArgumentParser()
options.add_argument("--model", required=True)
options.add_argument("--host", required=True)
options.add_argument("--port", type=int, default=0)
options.add_argument("--alias", required=True)
options.add_argument("--context", type=int, default=512)
options.add_argument("--parallel", type=int, default=1)
options = options.parse_args()

parameters = xllamacpp.CommonParams()
parameters.model.path = options.model
parameters.model_alias = {options.alias}
# One that ends with .sock is a Unix socket.
parameters.hostnames = [options.host]
parameters.port = options.port
parameters.n_ctx = options.context
parameters.n_parallel = options.parallel
# Any sequence may have all of the context.
parameters.kv_unified = True
parameters.warmup = False
parameters.cpuparams.n_threads = 1
server = xllamacpp.Server(parameters)
signal.sigwait({signal.SIGTERM, signal.SIGINT})
