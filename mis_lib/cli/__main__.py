"""``python -m mis_lib.cli VERB`` does what ``mis VERB`` does; accelerate starts training this way."""

from mis_lib.cli.main import app

if __name__ == "__main__":
    app()
