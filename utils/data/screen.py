"""A window that shows pictures one after the other, through Python's own Tk: headless builds of OpenCV have none."""

from __future__ import annotations

import numpy as np

from utils.errors import InputError

CLOSES = ("q", "Q", "Escape")
INSTEAD = "the pictures are written anyway, so leave --view-img away"


class Screen:
    """An open window.

    Raises:
        InputError: this Python has no Tk, or there is no screen.
    """

    def __init__(self, title: str) -> None:
        try:
            import tkinter
        except ImportError:
            raise InputError(f"--view-img: this Python has no Tk; apt-get install python3-tk, or {INSTEAD}") from None
        try:
            self._root = tkinter.Tk()
        except tkinter.TclError as error:
            raise InputError(f"--view-img: no window opens here ({error}); {INSTEAD}") from None
        self._root.title(title)
        self._label = tkinter.Label(self._root)
        self._label.pack()
        self._pressed = tkinter.StringVar(self._root)
        self._root.bind("<Key>", lambda event: self._pressed.set(event.keysym))
        self._root.protocol("WM_DELETE_WINDOW", lambda: self._pressed.set(CLOSES[0]))
        self._photo = tkinter.PhotoImage

    def show(self, picture: np.ndarray, *, wait: bool) -> bool:
        """Show uint8 [H, W, 3] RGB, with ``wait`` until a key is pressed; whether the person wants to see more."""
        photo = self._photo(master=self._root, data=portable(picture), format="PPM")
        self._label.configure(image=photo)
        self._label.image = photo  # type: ignore[attr-defined]  # Tk shows what somebody holds
        if wait:
            self._root.wait_variable(self._pressed)
        self._root.update()
        return self._pressed.get() not in CLOSES

    def close(self) -> None:
        """Take it off the screen."""
        self._root.destroy()


def portable(picture: np.ndarray) -> bytes:
    """uint8 [H, W, 3] RGB as a binary PPM, which Tk reads by itself."""
    height, width = picture.shape[:2]
    return b"P6 %d %d 255\n" % (width, height) + np.ascontiguousarray(picture).tobytes()
