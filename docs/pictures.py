"""Draw the README's picture of a running service: `make pictures`. It needs a container engine.

It is a screen of a terminal, drawn once in dark and once in light colours.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from tests.support.commands import run
from tests.support.template import NEWEST, ROOT, copy
from tests.support.terminal import Terminal, terminal

FONTS = Path(matplotlib.get_data_path()) / "fonts/ttf"
FONT, BOLD = (ImageFont.truetype(FONTS / f"DejaVuSansMono{weight}.ttf", 20) for weight in ("", "-Bold"))
WIDTH, HEIGHT, MARGIN = 12, 25, 16  # of a character, and around the screen, in pixels
# Of foreground and background; and the one of a terminal's colours that is too pale on white.
THEMES = {
    "dark": {"default": "#e6edf3", "background": "#0d1117"},
    "light": {"default": "#1f2328", "background": "#ffffff", "ffaf00": "#9a6700"},
}
NOT_IN_THE_FONT = str.maketrans({"🎤": "?"})


def draw(screen: Terminal, name: str) -> None:
    """Write docs/NAME-dark.png and docs/NAME-light.png."""
    lines = screen.text().count("\n") + 1
    for theme, colours in THEMES.items():
        size = (screen.screen.columns * WIDTH + 2 * MARGIN, lines * HEIGHT + 2 * MARGIN)
        image = Image.new("RGB", size, colours["background"])
        pen = ImageDraw.Draw(image)
        for row in range(lines):
            for column, cell in screen.screen.buffer[row].items():
                x, y = MARGIN + column * WIDTH, MARGIN + row * HEIGHT
                if cell.bg != "default":
                    pen.rectangle((x, y, x + WIDTH, y + HEIGHT), fill=f"#{cell.bg}")
                colour = colours.get(cell.fg, f"#{cell.fg}")
                pen.text((x, y), cell.data.translate(NOT_IN_THE_FONT), fill=colour, font=BOLD if cell.bold else FONT)
        image.quantize(16).save(ROOT / f"docs/{name}-{theme}.png", optimize=True)


@contextmanager
def template() -> Iterator[Path]:
    """Yield a clone of this repository, its last commit tagged as the newest version."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "copier-fastapi-ecs"
        run("git", "clone", "--quiet", ROOT, clone)
        run("git", "tag", NEWEST, cwd=clone)
        yield clone


def service(template: Path) -> None:
    repository = copy(template, template.parent / "my-service", {})
    run("make", "up", cwd=repository)  # the picture is of a start with all images there
    run("make", "down", cwd=repository)
    try:
        with terminal("bash", "--norc", cwd=repository) as screen:
            screen.type("PS1='$ '; export COMPOSE_PROGRESS=quiet; unset MAKEFLAGS MAKELEVEL; clear\r")
            screen.type("make up\r")
            screen.wait_for("documentation at", 120)
            screen.type("curl -w '\\n' http://127.0.0.1:8000/health\r")
            screen.wait_for('{"status":"healthy"}')
            screen.type("curl -w '\\n' http://127.0.0.1:8000/hello/Ada\r")
            screen.wait_for("Hello, Ada!")
            screen.type("docker compose logs --no-log-prefix | tail -1\r")
            screen.wait_for("request_id")
            draw(screen, "service")
    finally:
        run("docker", "compose", "down", "--rmi", "local", cwd=repository)
        shutil.rmtree(repository)


with template() as clone:
    service(clone)
