"""Requests as MONAI Label's clients send them, and the parts of the answers."""

from __future__ import annotations

import email
import json
from typing import Any

LIMIT = "----------lImIt_of_THE_fIle_eW_$"


def slicer_form(fields: dict[str, str], files: dict[str, tuple[str, bytes]]) -> dict[str, Any]:
    """A body as MONAI Label's client makes it (`encode_multipart_formdata`)."""
    body = bytearray()
    for key, value in fields.items():
        body += f'--{LIMIT}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
    for key, (name, data) in files.items():
        head = f'--{LIMIT}\r\nContent-Disposition: form-data; name="{key}"; filename="{name}"\r\n'
        body += f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + data + b"\r\n"
    body += f"--{LIMIT}--\r\n".encode()
    return {"content": bytes(body), "headers": {"content-type": f"multipart/form-data; boundary={LIMIT}"}}


def parts_of(answer: Any) -> tuple[dict[str, Any], str, bytes]:
    """Parameters, file name and file of a multipart answer."""
    text = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode() + answer.content
    params, image = email.message_from_bytes(text).get_payload()
    assert params.get_filename() is None
    assert params.get_param("name", header="content-disposition") == "params"
    return json.loads(params.get_payload(decode=True)), image.get_filename(), image.get_payload(decode=True)
