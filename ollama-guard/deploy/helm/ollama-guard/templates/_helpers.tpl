{{/* The name of everything. */}}
{{- define "ollama-guard.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "ollama-guard.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "ollama-guard.labels" -}}
{{ include "ollama-guard.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{/* A list of rules in TOML: words, and tables of from, interfaces (which YAML
     would take for a truth if they were called `on`, as in TOML) and expires. */}}
{{- define "ollama-guard.rules" -}}
[
{{- range $index, $rule := . -}}
{{- if $index }}, {{ end -}}
{{- if kindIs "string" $rule -}}
{{ $rule | toJson }}
{{- else -}}
{ from = {{ $rule.from | toJson }}
{{- with $rule.interfaces }}, on = {{ include "ollama-guard.words" . }}{{ end }}
{{- with $rule.expires }}, expires = {{ . | toJson }}{{ end }} }
{{- end -}}
{{- end -}}
]
{{- end }}

{{/* A list of words in TOML, which writes them as JSON does. */}}
{{- define "ollama-guard.words" -}}
[{{ range $index, $word := . }}{{ if $index }}, {{ end }}{{ $word | toString | toJson }}{{ end }}]
{{- end }}

{{/* Whether anything is only observed: then a pod that observes is ready. */}}
{{- define "ollama-guard.observes" -}}
{{- $observes := eq .Values.mode "observe" -}}
{{- range .Values.services -}}
{{- if eq (default $.Values.mode .mode) "observe" -}}{{- $observes = true -}}{{- end -}}
{{- end -}}
{{- if $observes -}}yes{{- end -}}
{{- end }}

{{/* Where metrics and health are served. */}}
{{- define "ollama-guard.listen" -}}
{{- if and .Values.metrics.expose (or (hasPrefix "127." .Values.metrics.listen) (hasPrefix "[::1]" .Values.metrics.listen)) -}}
0.0.0.0:{{ include "ollama-guard.port" . }}
{{- else -}}
{{ .Values.metrics.listen }}
{{- end -}}
{{- end }}

{{- define "ollama-guard.port" -}}
{{ splitList ":" .Values.metrics.listen | last }}
{{- end }}

{{/* The configuration, as it would be on a host. */}}
{{- define "ollama-guard.config" -}}
# Written by the deployment; its reference is config.example.toml. A change here is in force on every node
# some seconds after the kubelet has brought it there, whole or not at all.
mode = {{ .Values.mode | toJson }}
interfaces = {{ if kindIs "string" .Values.interfaces }}{{ .Values.interfaces | toJson }}{{ else }}{{ include "ollama-guard.words" .Values.interfaces }}{{ end }}
exclude = {{ include "ollama-guard.words" .Values.exclude }}
{{- range $name, $group := .Values.groups }}

[groups.{{ $name | toJson }}]
{{- if kindIs "map" $group }}
{{- with $group.include }}
include = {{ include "ollama-guard.words" . }}
{{- end }}
prefixes = {{ include "ollama-guard.words" (default list $group.prefixes) }}
{{- else }}
prefixes = {{ include "ollama-guard.words" $group }}
{{- end }}
{{- end }}

# "node" are the addresses that this node itself speaks from, as its kubelet does.
[[service]]
name = "ollama"
ports = {{ include "ollama-guard.words" .Values.ports }}
allow = {{ include "ollama-guard.rules" .Values.allow }}
deny = {{ include "ollama-guard.rules" .Values.deny }}
{{- range .Values.services }}

[[service]]
name = {{ .name | toJson }}
{{- with .mode }}
mode = {{ . | toJson }}
{{- end }}
ports = {{ include "ollama-guard.words" .ports }}
allow = {{ include "ollama-guard.rules" (default list .allow) }}
deny = {{ include "ollama-guard.rules" (default list .deny) }}
{{- end }}
{{- if .Values.metrics.expose }}

# Who may read the metrics, which have no login.
[[service]]
name = "metrics"
mode = "enforce"
ports = [{{ printf "%s/tcp" (include "ollama-guard.port" .) | toJson }}]
allow = {{ include "ollama-guard.rules" .Values.metrics.allow }}
{{- end }}
{{- if or (not .Values.inner.enabled) .Values.inner.cgroup }}

[inner]
enable = {{ .Values.inner.enabled }}
{{- with .Values.inner.cgroup }}
cgroup = {{ printf "/host/cgroup/%s" . | toJson }}
{{- end }}
{{- end }}

[metrics]
listen = {{ include "ollama-guard.listen" . | toJson }}
{{- with .Values.extraConfig }}

{{ . | trim }}
{{- end }}
{{- end }}
