"""On the path of a process under test: the video decoder fails as the environment says, at the clip that it names."""

import os
import sys

if os.environ.get("FAULT_CLIP") and "eval.reading.decoder" in " ".join(sys.orig_argv):
    import ctypes
    import time

    import av

    whole = av.open

    def hurt(file, *arguments, **named):
        if os.path.realpath(str(file)) == os.path.realpath(os.environ["FAULT_CLIP"]):
            way = os.environ["FAULT_WAY"]
            if way == "crash":
                ctypes.string_at(0)
            elif way == "hang":
                time.sleep(3600)
            elif way == "exit":
                os._exit(0)
            elif way == "chatter":
                print("noise on standard output", flush=True)
        return whole(file, *arguments, **named)

    av.open = hurt
