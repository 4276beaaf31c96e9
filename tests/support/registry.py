"""The registry of the rig, asked over HTTP."""

import json
import urllib.request
from http.client import HTTPResponse

REGISTRY = "127.0.0.1:5000"
MANIFESTS = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        "oci.image.index.v1",
        "oci.image.manifest.v1",
        "docker.distribution.manifest.list.v2",
        "docker.distribution.manifest.v2",
    )
)


def ask(path: str) -> HTTPResponse:
    """Return the response to a request for something below /v2/."""
    request = urllib.request.Request(f"http://{REGISTRY}/v2/{path}", headers={"Accept": MANIFESTS})
    response: HTTPResponse = urllib.request.urlopen(request)
    return response


def layers(repository: str, reference: str) -> dict[str, int]:
    """Return the compressed size of each layer of an image by digest, the lowest layer first."""
    with ask(f"{repository}/manifests/{reference}") as response:
        manifest = json.load(response)
    if "manifests" in manifest:  # an index: the image is first, an attestation may be second
        return layers(repository, manifest["manifests"][0]["digest"])
    return {layer["digest"]: layer["size"] for layer in manifest["layers"]}
