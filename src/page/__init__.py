"""The page to play with a model: `python -m src.page`.

app.py and what draws it, page.py, sidebar.py and tabs.py, need Streamlit; all that computes, in sources.py, samples.py,
distillation.py, pictures.py and history.py, does not know of it. A tab is one function of tabs.py.
"""
