"""Mathematics and nouns of bimode: records, config, losses, credit, metrics. Imports no Ray, vLLM
or DeepSpeed.
"""
