"""What the site is built with; its pages are the .md files beside this one."""
