"""Downloads with a bound on waiting, one try a mirror, and a digest check."""

import http.client
import threading
import urllib.error
import urllib.request

from absl import logging

from experiments.data import files

STALL_SECONDS = 20.0


def receive(url, stall_seconds=STALL_SECONDS):
    """Returns the bytes at `url`.

    A socket time-out bounds neither the name look-up nor a host with many dead
    addresses, so the transfer runs in a thread that is left behind once no new
    bytes have come for `stall_seconds`.

    Raises:
      OSError: nothing came for that long (TimeoutError), or the transfer failed.
    """
    blocks, errors = [], []

    def transfer():
        try:
            with urllib.request.urlopen(url, timeout=stall_seconds) as response:
                while block := response.read(1 << 16):
                    blocks.append(block)
        except urllib.error.HTTPError as error:
            error.close()
            errors.append(error)
        except (OSError, http.client.HTTPException) as error:
            errors.append(error)

    thread = threading.Thread(target=transfer, daemon=True)
    thread.start()
    received = -1
    while thread.is_alive() and len(blocks) > received:
        received = len(blocks)
        thread.join(stall_seconds)
    if thread.is_alive():
        raise TimeoutError(f"no data for {stall_seconds:g} s")
    if errors:
        raise OSError(str(errors[0])) from errors[0]
    return b"".join(blocks)


def fetch(name, mirrors, md5, stall_seconds=STALL_SECONDS):
    """Returns a file's uncompressed bytes from the first mirror that has it whole.

    Args:
      name: file name, ".gz" included where the mirrors keep it gzipped.
      mirrors: addresses, each ending in "/", that `name` is appended to.
      md5: digest of the uncompressed content.
      stall_seconds: longest wait for new bytes, so the longest a mirror that
        never answers can take.

    Raises:
      OSError: no mirror delivered it; the text names each with its reason.
    """
    failures = []
    for mirror in mirrors:
        url = mirror + name
        logging.info("downloading %s", url)
        try:
            data = receive(url, stall_seconds)
            if name.endswith(".gz"):
                data = files.gunzip(data, url)
            files.check_md5(data, md5, url)
            return data
        except (OSError, ValueError) as error:
            failures.append(f"{url}: {error}")
    raise OSError("; ".join(failures))
