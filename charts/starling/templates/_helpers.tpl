{{- define "starling.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{/* The name of everything in the release's namespace; 50 characters leave room for "-dashboards". */}}
{{- define "starling.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "starling.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "starling.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Names without a namespace: two releases of one name may live in one cluster. */}}
{{- define "starling.clusterName" -}}
{{- printf "%s:%s" .Release.Namespace (include "starling.fullname" .) -}}
{{- end -}}

{{- define "starling.selector" -}}
app.kubernetes.io/name: {{ include "starling.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "starling.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "starling.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: starling
{{- end -}}

{{- define "starling.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "starling.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "starling.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "starling.natsUrl" -}}
{{- if and .Values.nats.url .Values.nats.dev.enabled -}}
{{- fail "nats.url and nats.dev.enabled exclude each other: give the address of your NATS, or turn the trial server on" -}}
{{- else if .Values.nats.dev.enabled -}}
{{- printf "nats://%s-nats.%s.svc:4222" (include "starling.fullname" .) .Release.Namespace -}}
{{- else -}}
{{- required "nats.url is empty: set it to the address of your NATS with JetStream, such as nats://nats.messaging.svc:4222, or set nats.dev.enabled=true for a trial" .Values.nats.url -}}
{{- end -}}
{{- end -}}

{{/* Nine tenths of a memory limit such as 1.5Gi, in bytes: from there on Go collects garbage as often as it takes. Nothing
without a limit. */}}
{{- define "starling.goMemoryLimit" -}}
{{- with . -}}
{{- $limit := ternary (printf "%.0f" (float64 .)) (toString .) (kindIs "float64" .) -}}
{{- $unit := regexReplaceAll "^[0-9.]+" $limit "" -}}
{{- $bytes := dict "" 1 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- if not (hasKey $bytes $unit) -}}
{{- fail (printf "nats.dev.resources.limits.memory: %q is no size; write it as 1Gi or 900Mi" $limit) -}}
{{- end -}}
{{- mulf 0.9 (float64 (trimSuffix $unit $limit)) (get $bytes $unit) | floor | int64 -}}
{{- end -}}
{{- end -}}

{{/* What Pod Security "restricted" asks of a pod. */}}
{{- define "starling.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "starling.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}
