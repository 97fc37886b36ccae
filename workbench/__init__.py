"""The Gradio app: one module per tab, over mis_lib; never imports torch itself."""
